"""The timeline of a run, for chrome://tracing and Perfetto: what the training loop and each actor were at.

The file is whole after every update: what is added takes the place of its closing brackets.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from rlcap.algorithm.ready_batches import CollectedBatch
from rlcap.algorithm.spans import Span
from rlcap.algorithm.update_report import UpdateReport

log = logging.getLogger(__name__)

_HEAD, _SEPARATOR, _TAIL = b'{"traceEvents": [\n', b",\n", b"\n]}\n"
_DRIVER, _ACTORS = 1, 2
"""What the format calls processes; a thread of `_ACTORS` is a caption actor."""
_MICROSECONDS = 1e6

Event = dict[str, object]


class Timeline:
    """Appends the spans of each update to a Chrome trace; a resumed run goes on with the file that it finds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._named: set[tuple[int, int]] = set()
        self._is_writable = True

    def note(self, report: UpdateReport, spans: Sequence[Span] = ()) -> None:
        """Add an update's own spans, those of the actors behind it, and others of the training loop.

        A disk that is full ends the timeline, and not the run.
        """
        if not self._is_writable:
            return
        events = [*self._events(report, spans)]
        try:
            _append(self._path, events)
        except OSError as error:
            log.warning("%s cannot be written, and is left as it is: %s", self._path, error)
            self._is_writable = False

    def _events(self, report: UpdateReport, spans: Sequence[Span]) -> Iterator[Event]:
        yield from self._names(_DRIVER, 0, "driver", "training loop")
        for span in (*_whole(report), *report.spans, *spans):
            yield _event(span, _DRIVER, 0, {"update": report.update})
        for batch in report.batches:
            yield from self._names(_ACTORS, batch.actor_id, "caption actors", f"caption actor {batch.actor_id}")
            for span in _spans_of(batch):
                yield _event(span, _ACTORS, batch.actor_id, {"update": report.update, **_facts(batch)})

    def _names(self, process: int, thread: int, process_name: str, thread_name: str) -> Iterator[Event]:
        if (process, thread) in self._named:
            return
        self._named.add((process, thread))
        for name, value in (("process_name", process_name), ("thread_name", thread_name)):
            yield {"name": name, "ph": "M", "pid": process, "tid": thread, "args": {"name": value}}


def _whole(report: UpdateReport) -> Iterator[Span]:
    """The update that its own spans make up."""
    if report.spans:
        begin_s, end_s = min(span.begin_s for span in report.spans), max(span.end_s for span in report.spans)
        yield Span(f"update {report.update}", begin_s, end_s)


def _spans_of(batch: CollectedBatch) -> Iterator[Span]:
    """A batch, and within it what held the captioner up before it could begin."""
    info, begin_s = batch.info, batch.info.began_at_s
    yield Span(f"batch {batch.batch.batch_index}", begin_s, begin_s + info.wall_s)
    loaded_s = begin_s + info.load_s
    if info.load_s:
        yield Span("load weights", begin_s, loaded_s)
    if info.audio_wait_s:
        yield Span("wait for audio", loaded_s, loaded_s + info.audio_wait_s)


def _facts(batch: CollectedBatch) -> dict[str, object]:
    return {"policy_version": batch.info.policy_version, "captions": batch.info.num_captions}


def _event(span: Span, process: int, thread: int, arguments: dict[str, object]) -> Event:
    # Both ends are rounded alike, so that spans within one another stay so.
    begin, end = round(span.begin_s * _MICROSECONDS), round(span.end_s * _MICROSECONDS)
    return {
        "name": span.name,
        "ph": "X",
        "ts": begin,
        "dur": end - begin,
        "pid": process,
        "tid": thread,
        "args": arguments,
    }


def _append(path: Path, events: Sequence[Event]) -> None:
    """Write events behind those that are there whole, and close the file again."""
    text = _SEPARATOR.join(json.dumps(event).encode() for event in events)
    path.touch()
    with path.open("r+b") as file:
        end = _end_of_events(file)
        file.seek(end)
        file.write((_SEPARATOR if end else _HEAD) + text + _TAIL)
        file.truncate()


def _end_of_events(file: BinaryIO) -> int:
    """Return where the last whole event ends; 0 where there is none, as in a new file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(_TAIL)))
    if file.read() == _TAIL:
        return size - len(_TAIL)
    file.seek(0)  # torn by a kill or a full disk: the last line may be half an event
    return max(0, file.read().rfind(_SEPARATOR))
