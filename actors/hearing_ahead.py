"""Decoding and listening ahead: what an actor will probably be asked to caption next is heard in the background.

What a captioner hears, its features, does not depend on the weights that are learned, so it need not wait for new ones.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeAlias

from rlcap.protocols import AudioSource
from rlcap.types import Clip, PolicyFeatures, Quarantined

log = logging.getLogger(__name__)

Read: TypeAlias = tuple[list[Clip], list[Quarantined]]
Listen: TypeAlias = Callable[[Sequence[Clip]], PolicyFeatures]


@dataclass(frozen=True, slots=True)
class HeardBatch:
    """What was found at some positions of a source."""

    clips: tuple[Clip, ...]
    features: PolicyFeatures | None
    """Of the clips; None where there are none."""
    quarantined: tuple[Quarantined, ...]
    waited_s: float
    """How long the caller had to wait for it."""

    @property
    def audio_s(self) -> float:
        """Seconds of audio."""
        return sum(len(clip.waveform) / clip.sample_rate_hz for clip in self.clips)


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A batch that is being heard in the background."""

    positions: tuple[int, ...]
    read: Future[Read]
    features: Future[PolicyFeatures | None]

    def cancel(self) -> None:
        self.read.cancel()
        self.features.cancel()


class HearingAhead:
    """Hears a source, one batch at most ahead of what it is asked for.

    The source is read in one thread of its own, since sources need not bear two. With `when_idle` the captioner listens
    ahead only on cores that nobody else wants: a learner that shares them must not wait for it.
    """

    def __init__(self, source: AudioSource, listen: Listen, *, when_idle: bool) -> None:
        self._source = source
        self._listen = listen
        make_way = _make_way if when_idle else None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._listener = ThreadPoolExecutor(max_workers=1, thread_name_prefix="listen", initializer=make_way)
        self._ahead: _Ahead | None = None
        self._listening_s = 0.0  # what it took when it was last done at once

    def hear(self, positions: tuple[int, ...]) -> HeardBatch:
        """Return what is heard at these positions, at once where that was begun in time."""
        started = time.monotonic()
        ahead = self._take(positions)
        read = ahead.read if ahead else self._read(positions)
        clips, quarantined = read.result()
        features = self._features(clips, ahead) if clips else None
        return HeardBatch(tuple(clips), features, tuple(quarantined), time.monotonic() - started)

    def begin(self, positions: tuple[int, ...]) -> None:
        """Hear these positions in the background; what was begun for others is let go."""
        self._ahead = self._take(positions) or self._start(positions)

    def _start(self, positions: tuple[int, ...]) -> _Ahead:
        read = self._read(positions)
        return _Ahead(positions, read, self._listener.submit(self._listen_once, read))

    def _read(self, positions: tuple[int, ...]) -> Future[Read]:
        return self._reader.submit(self._source.read, positions)

    def _take(self, positions: tuple[int, ...]) -> _Ahead | None:
        """Let go of what was begun, and return it if it is wanted."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.positions == positions:
            return ahead
        ahead.cancel()
        return None

    def _listen_once(self, read: Future[Read]) -> PolicyFeatures | None:
        clips, _ = read.result()
        return self._listen(clips) if clips else None

    def _features(self, clips: Sequence[Clip], ahead: _Ahead | None) -> PolicyFeatures:
        """Wait for what is heard in the background, but no longer than to listen at once would take."""
        if ahead is not None:
            wait([ahead.features], timeout=self._listening_s)
            if ahead.features.done():
                features = ahead.features.result()
                assert features is not None, "there are clips"
                return features
            ahead.cancel()
        started = time.monotonic()
        features = self._listen(clips)
        self._listening_s = time.monotonic() - started
        return features


def _make_way() -> None:
    """Let this thread, and those that compute for it, run only while a core would be idle."""
    if not hasattr(os, "SCHED_IDLE"):  # Linux alone has such threads
        return
    try:
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
    except OSError as refused:  # as sandboxes do
        log.warning(
            "to listen ahead may take cores from the learner: this system keeps all threads alike (%s)", refused
        )
