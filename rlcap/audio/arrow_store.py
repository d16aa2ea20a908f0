"""Decoded clips in one Arrow file: 16-bit samples that all processes of a machine map and none of them copies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int16

from rlcap.errors import DataError
from rlcap.types import Clip, Quarantined
from rlcap.whole_file import whole_file

SCHEMA = pa.schema(
    [("clip_id", pa.string()), ("pcm", pa.binary()), ("sample_rate_hz", pa.int32()), ("record", pa.string())]
)
CLIPS_PER_BATCH = 64
"""Clips of a record batch: what a writer holds at once."""
FULL_SCALE = 32_767


def write_clip_store(path: Path, clips: Iterable[tuple[Clip, str]]) -> int:
    """Write clips, each with a free-form record of it (JSON), and return their number.

    The file appears under its name only once it is whole and on disk; what was there before is replaced. Samples are
    rounded to 16 bits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    num_clips = 0
    with whole_file(path) as fresh, fresh.open("wb") as file:
        with pa.ipc.new_file(file, SCHEMA) as writer:
            remaining = iter(clips)
            while batch := list(islice(remaining, CLIPS_PER_BATCH)):
                writer.write_batch(_to_record_batch(batch))
                num_clips += len(batch)
        file.flush()
        os.fsync(file.fileno())
    return num_clips


class ClipStore:
    """Clips of a written store by position; an `AudioSource`. Pickled, it is no more than its path."""

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            DataError: it is missing, damaged, or no clip store.
        """
        self._path = path.absolute()  # who reads it elsewhere may have another working directory
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        except FileNotFoundError as error:
            raise DataError(f"there is no clip store at {path}") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{path} is no clip store, or is damaged: {error}; remove it to have it made again"
            ) from error
        if self._file.schema != SCHEMA:
            raise DataError(
                f"{path} is no clip store: expected the columns {SCHEMA.names}, got {self._file.schema.names}"
            )
        num_batches = self._file.num_record_batches
        # Every batch but the last is full.
        last = self._file.get_batch(num_batches - 1).num_rows if num_batches else 0
        self._num_clips: int = max(0, num_batches - 1) * CLIPS_PER_BATCH + last

    def __len__(self) -> int:
        return self._num_clips

    def __reduce__(self) -> tuple[Callable[[Path], ClipStore], tuple[Path]]:
        return ClipStore, (self._path,)

    def read(self, positions: Sequence[int]) -> tuple[list[Clip], list[Quarantined]]:
        """Return these clips, in order; nothing is ever quarantined."""
        return [self._clip(position) for position in positions], []

    def clip_ids(self) -> tuple[str, ...]:
        """Return the id of each clip, in order."""
        batches = (self._file.get_batch(batch) for batch in range(self._file.num_record_batches))
        return tuple(clip_id for batch in batches for clip_id in batch["clip_id"].to_pylist())

    def record_json(self, position: int) -> str:
        """Return what was written beside the clip at `position`."""
        batch, row = self._find(position)
        record: str = batch["record"][row].as_py()
        return record

    def _clip(self, position: int) -> Clip:
        batch, row = self._find(position)
        pcm = np.frombuffer(batch["pcm"][row].as_buffer(), dtype="<i2")
        waveform = pcm.astype(np.float32) / np.float32(FULL_SCALE)
        return Clip(batch["clip_id"][row].as_py(), waveform, batch["sample_rate_hz"][row].as_py())

    def _find(self, position: int) -> tuple[pa.RecordBatch, int]:
        """Return the record batch of a clip and its row there; nothing of it is copied."""
        if not 0 <= position < self._num_clips:
            raise IndexError(f"position must lie in [0, {self._num_clips}), got {position}")
        batch, row = divmod(position, CLIPS_PER_BATCH)
        return self._file.get_batch(batch), row


def _to_record_batch(clips: Sequence[tuple[Clip, str]]) -> pa.RecordBatch:
    return pa.record_batch(
        [
            pa.array([clip.clip_id for clip, _ in clips], pa.string()),
            pa.array([_to_pcm(clip.waveform).tobytes() for clip, _ in clips], pa.binary()),
            pa.array([clip.sample_rate_hz for clip, _ in clips], pa.int32()),
            pa.array([record for _, record in clips], pa.string()),
        ],
        schema=SCHEMA,
    )


def _to_pcm(waveform: Float32[np.ndarray, " sample"]) -> Int16[np.ndarray, " sample"]:
    pcm: Int16[np.ndarray, " sample"] = np.rint(np.clip(waveform, -1.0, 1.0) * FULL_SCALE).astype("<i2")
    return pcm
