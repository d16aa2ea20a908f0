"""The exact position of a run in a shuffled stream of clips.

Batch b of size k holds the elements b * k to (b + 1) * k - 1 of an endless sequence of epochs laid end to end, each a
permutation of all clips. So no clip is lost at the border of two epochs, which may lie within a batch; there, and where
a batch is larger than the source, a clip may occur in it twice. Everything follows from the seed and the number of the
batch: the state is one integer, and any batch can be made again without those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from rlcap.errors import CheckpointError

MAX_SHUFFLED = 2**28
"""Longer sources (a permutation would take over 2 GiB) are streams of fresh clips, such as endless ones: they are heard
in order."""
_SHUFFLE, _SAMPLE = 0, 1
"""Keeps the random numbers of the two uses of a run's seed apart."""


@dataclass(frozen=True, slots=True)
class CursorBatch:
    """What one step of the stream asks an actor for."""

    batch_index: int
    """Number of the batch in the run, from 0."""
    epoch: int
    """Epoch of its first clip, from 0."""
    positions: tuple[int, ...]
    """In the source."""
    seed: int
    """For sampling captions: non-negative, below 2**63, and another one for every batch."""


class CursorState(TypedDict):
    """What a checkpoint holds of a cursor."""

    next_batch: int
    num_clips: int
    batch_size: int
    seed: int


class AudioCursor:
    """Hands out batches of positions, in an order that the seed alone decides."""

    def __init__(self, num_clips: int, batch_size: int, seed: int) -> None:
        if num_clips < 1 or batch_size < 1 or seed < 0:
            raise ValueError(
                f"num_clips and batch_size must be 1 or more and seed 0 or more, got {num_clips}, {batch_size}, {seed}"
            )
        self._num_clips = num_clips
        self._batch_size = batch_size
        self._seed = seed
        self._next_batch = 0
        self._shuffled_epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    @property
    def num_clips(self) -> int:
        """Clips of the source."""
        return self._num_clips

    def next(self) -> CursorBatch:
        """Return the next batch and step over it."""
        batch = self.batch(self._next_batch)
        self._next_batch += 1
        return batch

    def batch(self, batch_index: int) -> CursorBatch:
        """Return any batch of the stream, without moving."""
        first = batch_index * self._batch_size
        epoch, offset = divmod(first, self._num_clips)
        positions: list[int] = []
        for later in range(epoch, (first + self._batch_size - 1) // self._num_clips + 1):
            stop = min(self._num_clips, offset + self._batch_size - len(positions))
            positions += self._elements(later, offset, stop)
            offset = 0
        return CursorBatch(batch_index, epoch, tuple(positions), self._sampling_seed(batch_index))

    def state_dict(self) -> CursorState:
        """Return the position, and what it is a position in."""
        return {
            "next_batch": self._next_batch,
            "num_clips": self._num_clips,
            "batch_size": self._batch_size,
            "seed": self._seed,
        }

    def load_state_dict(self, state: CursorState) -> None:
        """Continue a stream where it was left.

        Raises:
            CheckpointError: it was another stream.
        """
        mine = self.state_dict()
        changed = [
            f"{key} was {state[key]} and is now {mine[key]}"
            for key in ("num_clips", "batch_size", "seed")
            if state[key] != mine[key]
        ]
        if changed:
            raise CheckpointError(
                f"the audio stream of the checkpoint is not this one: {'; '.join(changed)}; "
                "resume with the data and settings that the run began with"
            )
        self._next_batch = state["next_batch"]

    def _elements(self, epoch: int, start: int, stop: int) -> Sequence[int]:
        """Return elements `start` to `stop` of an epoch."""
        if self._num_clips > MAX_SHUFFLED:
            return range(start, stop)
        if self._shuffled_epoch != epoch:
            sequence = np.random.SeedSequence(self._seed, spawn_key=(_SHUFFLE, epoch))
            self._permutation = np.random.Generator(np.random.PCG64(sequence)).permutation(self._num_clips)
            self._shuffled_epoch = epoch
        positions: list[int] = self._permutation[start:stop].tolist()
        return positions

    def _sampling_seed(self, batch_index: int) -> int:
        sequence = np.random.SeedSequence(self._seed, spawn_key=(_SAMPLE, batch_index))
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
