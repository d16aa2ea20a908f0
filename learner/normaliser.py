"""Running statistics of scores, one reward version at a time."""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
from jaxtyping import Float32, Float64


class NormaliserState(TypedDict):
    """What a checkpoint holds of a normaliser."""

    reward_version: str | None
    count: int
    mean: float
    sum_of_squares: float


class RewardNormaliser:
    """Mean and deviation of all scores of the current reward version.

    A swapped reward model has its own scale: statistics restart with a new version and are never mixed.
    Source: Welford (1962), in the batched form of Chan et al. (1983), eq. 2.1.
    """

    def __init__(self) -> None:
        self._restart(None)

    def _restart(self, reward_version: str | None) -> None:
        self.reward_version = reward_version
        self.count = 0
        self.mean = 0.0
        self._sum_of_squares = 0.0

    @property
    def std(self) -> float:
        """Population deviation of the scores seen; 0 before the first."""
        return math.sqrt(self._sum_of_squares / self.count) if self.count else 0.0

    def observe(self, scores: Float32[np.ndarray, " batch"], reward_version: str) -> None:
        """Add finite scores of one version; another version than before begins anew."""
        if reward_version != self.reward_version:
            self._restart(reward_version)
        if not len(scores):
            return
        exact = scores.astype(np.float64)
        batch_mean = float(exact.mean())
        shift = batch_mean - self.mean
        total = self.count + len(exact)
        self._sum_of_squares += float(((exact - batch_mean) ** 2).sum()) + shift**2 * self.count * len(exact) / total
        self.mean += shift * len(exact) / total
        self.count = total

    def normalise(
        self, scores: Float32[np.ndarray, " batch"], *, epsilon: float = 1e-6
    ) -> Float64[np.ndarray, " batch"]:
        """Return scores with the running mean taken off, in units of the running deviation."""
        deviations: Float64[np.ndarray, " batch"] = (scores.astype(np.float64) - self.mean) / (self.std + epsilon)
        return deviations

    def state_dict(self) -> NormaliserState:
        """Return the statistics as plain numbers."""
        return {
            "reward_version": self.reward_version,
            "count": self.count,
            "mean": self.mean,
            "sum_of_squares": self._sum_of_squares,
        }

    def load_state_dict(self, state: NormaliserState) -> None:
        """Take over the statistics of a checkpoint."""
        self._restart(state["reward_version"])
        self.count = state["count"]
        self.mean = state["mean"]
        self._sum_of_squares = state["sum_of_squares"]
