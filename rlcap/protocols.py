"""How neighbours meet: the interfaces between packages that never import each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from rlcap.types import Clip, Quarantined, RewardBatch, RewardRequest


@runtime_checkable
class AudioSource(Protocol):
    """Clips by position. Positions are stable: the same position is the same clip in every process."""

    def __len__(self) -> int:
        """Number of positions (an endless source gives a very large number)."""
        ...

    def read(self, positions: Sequence[int]) -> tuple[list[Clip], list[Quarantined]]:
        """Decode these positions, in order; those that cannot be used come back as quarantined."""
        ...


@runtime_checkable
class RewardModel(Protocol):
    """Scores (clip, caption). Deterministic: the same input gives the same score."""

    @property
    def encoder_fingerprint(self) -> str:
        """Hash of whatever makes audio embeddings: two models that share it share cached embeddings."""
        ...

    def embed_audio(self, clips: Sequence[Clip]) -> Float32[np.ndarray, "clip dim"]:
        """One embedding a clip; does not depend on the other clips in the call."""
        ...

    def score(
        self,
        audio: Float32[np.ndarray, "clip dim"],
        captions: Sequence[str],
        clip_index: Int64[np.ndarray, " batch"],
    ) -> Float32[np.ndarray, " batch"]:
        """One score a caption, in order; higher is better."""
        ...


@runtime_checkable
class RewardClient(Protocol):
    """What an actor knows of the reward server."""

    def score(self, request: RewardRequest) -> RewardBatch:
        """Score every caption; failures are marked, never invented."""
        ...

    def ask(self, request: RewardRequest) -> Callable[[], RewardBatch]:
        """Send a request, and return what waits for its scores. A client that can only score at once inherits this."""
        batch = self.score(request)
        return lambda: batch
