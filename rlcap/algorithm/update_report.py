"""What one update was made of, for whoever records the run."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from actors.audio_cursor import CursorBatch
from learner.ppo_learner import UsedBatch
from rlcap.algorithm.ready_batches import CollectedBatch
from rlcap.algorithm.spans import Span
from rlcap.types import Quarantined, ScoredRollouts

FETCH_TIMEOUT_S = 60.0
"""Longest wait for rollouts that are looked at after their update."""


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one update was made of."""

    update: int
    """Number of updates behind the weights, this one included."""
    metrics: dict[str, float]
    quarantined: tuple[Quarantined, ...]
    failure_reasons: tuple[str, ...]
    """Why captions could not be scored, each reason once."""
    batches: tuple[CollectedBatch, ...]
    used: tuple[UsedBatch, ...] = ()
    """The same batches, as the learner saw them."""
    skipped: tuple[CursorBatch, ...] = ()
    """Batches of the stream that came before, and of which no clip could be used."""
    spans: tuple[Span, ...] = ()
    """What the training loop was at."""

    def first_rollouts(self) -> ScoredRollouts | None:
        """Fetch the first batch, for sample captions; None where it was lost since, as with a node."""
        try:
            scored: ScoredRollouts = ray.get(self.batches[0].rollouts, timeout=FETCH_TIMEOUT_S)
        except (ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError):
            return None
        return scored
