"""Batches that were captioned and scored, and wait for the others of their update.

All batches of an update are scored by one reward model, however often the model is swapped. One that moved up from
behind a swap, because a batch before it was skipped, is therefore scored again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ray

from actors.audio_cursor import CursorBatch
from actors.messages import RewardReference, RolloutInfo
from rlcap.algorithm.in_flight import Task


@dataclass(frozen=True, slots=True)
class CollectedBatch:
    """One cursor batch, captioned and scored; the rollouts stay in Ray's object store."""

    batch: CursorBatch
    reward: RewardReference
    """Of whom it was scored."""
    rollouts: ray.ObjectRef
    info: RolloutInfo
    actor_id: int


class ReadyBatches:
    """Batches by their number in the stream."""

    def __init__(self, batches_per_update: int) -> None:
        self._batches_per_update = batches_per_update
        self._batches: dict[int, CollectedBatch] = {}

    def __len__(self) -> int:
        """Number of batches that lie ready."""
        return len(self._batches)

    def __contains__(self, batch_index: int) -> bool:
        """Tell whether a batch lies ready."""
        return batch_index in self._batches

    def add(self, batch: CollectedBatch) -> None:
        """Keep a batch for its update."""
        self._batches[batch.batch.batch_index] = batch

    def take(self, wanted: Sequence[int]) -> list[CollectedBatch] | None:
        """Take out an update's batches, in this order, once all are there."""
        if not self._complete(wanted):
            return None
        return [self._batches.pop(index) for index in wanted]

    def take_strays(self, wanted: Sequence[int]) -> list[Task]:
        """Once an update's batches are all there, take out those scored by another model than its last one."""
        if not self._complete(wanted):
            return []
        last = self._batches[wanted[-1]]
        strays = [index for index in wanted if self._batches[index].info.reward_version != last.info.reward_version]
        return [Task(self._batches.pop(index).batch, last.reward) for index in strays]

    def _complete(self, wanted: Sequence[int]) -> bool:
        return len(wanted) == self._batches_per_update and all(index in self._batches for index in wanted)
