"""The clips of each split: rendered soundscapes or the user's recordings, with what is known about them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from pathlib import Path

import numpy as np

from rlcap.audio.arrow_store import ClipStore, write_clip_store
from rlcap.audio.source import RecordedSource
from rlcap.audio.sources import open_source
from rlcap.audio.subset import select_split
from rlcap.config.data import DataConfig, SoundscapesConfig, SourceKind, Split
from rlcap.errors import DataError
from rlcap.pipeline.progress import progress_bar
from rlcap.pipeline.stage_cache import StageCache
from rlcap.protocols import AudioSource
from rlcap.soundscapes.grammar import write_caption
from rlcap.soundscapes.lexicon import Lexicon, canonical_label
from rlcap.soundscapes.scene import Scene
from rlcap.soundscapes.stream import SoundscapeSource
from rlcap.soundscapes.world import LABELS, render
from rlcap.stop_signals import deaf_to_hangup
from rlcap.types import Clip, Quarantined

CAPTIONS_PER_RECORDING = 4
"""Phrasings that are made from the labels of a recording without captions of its own."""
CHUNK = 64
SPLIT_STRIDE = 10**9
"""Distance between the first clips of two splits in the synthetic world: they never share one."""
LABELLED_KINDS = (SourceKind.manifest, SourceKind.webdataset, SourceKind.parquet)
_NEED_LABELS = {
    Split.preference: ("the simulated annotators", "; or give the votes of people by reward.preferences"),
    Split.heldout: ("the judges of the evaluation", ""),
}
"""Who needs the labels of a split, and how to do without."""
_NEED_CAPTIONS = {
    Split.captioned: ("the captioner", "; with captioner.checkpoint and training.supervised=false it is not"),
    Split.clap: ("the small CLAP", ""),
    Split.rl: (
        "the supervised comparison",
        "; PPO needs audio alone: training.supervised=false leaves the comparison out",
    ),
}
"""Who is taught the captions of a split, and how to do without."""


@dataclass(frozen=True, slots=True)
class SplitClips:
    """The clips of a split, and what is known of them; PPO is given the source alone."""

    split: Split
    source: AudioSource
    clip_ids: tuple[str, ...]
    scenes: tuple[Scene | None, ...]
    """What happens in each clip, as annotators and judges know it; None for a recording without labels."""
    captions: tuple[tuple[str, ...], ...]
    """True captions of each clip; none for a recording with neither captions nor labels."""
    lexicon: Lexicon
    """Of the labels of this split."""
    key: str
    """Hash of what these clips are."""
    how_to_label: str
    """What the user can set to give these clips labels."""
    quarantined: tuple[Quarantined, ...] = ()
    """Rows, members and files of the source, all splits together, that are no clips because they cannot be used."""

    def known_scenes(self) -> tuple[Scene, ...]:
        """What happens in each clip, for those who judge captions of the splits `preference` and `heldout`.

        Raises:
            DataError: a clip has no label.
        """
        who, instead = _NEED_LABELS[self.split]
        for clip_id, scene in zip(self.clip_ids, self.scenes, strict=True):
            if scene is None:
                raise DataError(
                    f"clip {clip_id} of the split {self.split.value} has no label, and {who} know a recording by its "
                    f"labels: {self.how_to_label}{instead}"
                )
        return tuple(scene for scene in self.scenes if scene is not None)

    def known_captions(self) -> tuple[tuple[str, ...], ...]:
        """One or more true captions of each clip, for what is taught on the splits `captioned`, `clap` and `rl`.

        Raises:
            DataError: a clip has none.
        """
        who, instead = _NEED_CAPTIONS[self.split]
        for clip_id, captions in zip(self.clip_ids, self.captions, strict=True):
            if not captions:
                raise DataError(
                    f"clip {clip_id} of the split {self.split.value} has neither caption nor label, and {who} is "
                    f"taught true captions: set data.caption_column, or {self.how_to_label}{instead}"
                )
        return self.captions


def open_split(config: DataConfig, split: Split, cache: StageCache) -> SplitClips:
    """Open the clips of a split with what is known of them, rendering soundscapes that are not there yet.

    Raises:
        DataError: the source or the split cannot be used.
    """
    if config.kind is SourceKind.soundscapes:
        return _open_soundscapes(config.soundscapes, split, cache)
    return _know_recordings(select_split(open_source(config), config, split), config, split)


def open_audio(config: DataConfig, cache: StageCache) -> AudioSource:
    """Open the audio of PPO, without asking what is known of it; `data.soundscapes.rl: 0` is an endless stream."""
    if config.kind is not SourceKind.soundscapes:
        return select_split(open_source(config), config, Split.rl)
    if config.soundscapes.rl == 0:
        return SoundscapeSource(config.soundscapes.seed, first=_first(Split.rl))
    return _open_soundscapes(config.soundscapes, Split.rl, cache).source


def _first(split: Split) -> int:
    return list(Split).index(split) * SPLIT_STRIDE


def _open_soundscapes(config: SoundscapesConfig, split: Split, cache: StageCache) -> SplitClips:
    size = getattr(config, split.value)
    if size == 0:
        raise DataError(
            "data.soundscapes.rl is 0, an endless stream, and the supervised comparison is taught its captions: give a "
            "number, or set training.supervised=false"
        )
    lexicon = Lexicon.for_labels(LABELS)
    result = cache.get(
        f"clips-{split.value}",
        {"seed": config.seed, "first": _first(split), "size": size},
        lambda path: _render(path / "clips.arrow", config, split, size),
    )
    store = ClipStore(result.path / "clips.arrow")
    facts = [json.loads(store.record_json(position)) for position in range(len(store))]
    return SplitClips(
        split=split,
        source=store,
        clip_ids=store.clip_ids(),
        scenes=tuple(Scene.from_json(json.dumps(fact["scene"])) for fact in facts),
        captions=tuple(tuple(fact["captions"]) for fact in facts),
        lexicon=lexicon,
        key=result.key,
        how_to_label="",
    )


def _render(path: Path, config: SoundscapesConfig, split: Split, size: int) -> None:
    first = _first(split)
    starts = range(first, first + size, CHUNK)
    jobs = [(config.seed, start, min(CHUNK, first + size - start)) for start in starts]

    def rendered() -> Iterator[tuple[Clip, str]]:
        with (
            _renderers(config.num_workers) as pool,
            progress_bar(f"synthesise clips ({split.value})", len(jobs)) as advance,
        ):
            for clips in pool.map(_render_chunk, jobs):
                yield from clips
                advance("")

    write_clip_store(path, rendered())


@contextmanager
def _renderers(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for the length of the block, which does not end before they do."""
    with deaf_to_hangup():  # it would complain of semaphores that the one before it knew
        resource_tracker.ensure_running()
    # Spawned, not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), _end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Leave Ctrl-C and a closed terminal to the parent, which they reach as well, and end when it does, however."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "only the main process has none"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _render_chunk(job: tuple[int, int, int]) -> list[tuple[Clip, str]]:
    seed, first, size = job
    lexicon = Lexicon.for_labels(LABELS)
    clips = []
    for index in range(first, first + size):
        clip, scene = render(seed, index)
        caption = write_caption(scene, lexicon, np.random.default_rng([seed, index, 1]))
        clips.append((clip, json.dumps({"scene": json.loads(scene.to_json()), "captions": [caption]})))
    return clips


def _know_recordings(source: RecordedSource, config: DataConfig, split: Split) -> SplitClips:
    records = [source.record(position) for position in range(len(source))]
    lexicon = Lexicon.for_labels(sorted({label for record in records for label in record.labels}))
    scenes = tuple(
        Scene.from_labels(map(canonical_label, record.labels)) if record.labels else None for record in records
    )
    captions = tuple(
        record.captions or (_captions_from_labels(record.clip_id, scene, lexicon) if scene else ())
        for record, scene in zip(records, scenes, strict=True)
    )
    facts: list[object] = [[record.clip_id, record.path, record.labels, record.captions] for record in records]
    facts.append([config.min_duration_s, config.max_duration_s, config.silence_dbfs, str(Path(config.root).resolve())])
    return SplitClips(
        split=split,
        source=source,
        clip_ids=tuple(record.clip_id for record in records),
        scenes=scenes,
        captions=captions,
        lexicon=lexicon,
        key=_digest(json.dumps(facts)),
        how_to_label=_how_to_label(config),
        quarantined=source.left_out.quarantined,
    )


def _how_to_label(config: DataConfig) -> str:
    if config.kind in LABELLED_KINDS:
        return f"set data.label_columns (now {config.label_columns})"
    return f"list the clips in a table (data.kind=manifest) with data.label_columns, since {config.kind.value} has none"


def _captions_from_labels(clip_id: str, scene: Scene, lexicon: Lexicon) -> tuple[str, ...]:
    rng = np.random.default_rng(int(_digest(clip_id), 16))
    return tuple(write_caption(scene, lexicon, rng) for _ in range(CAPTIONS_PER_RECORDING))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
