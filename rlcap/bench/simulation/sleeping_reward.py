"""A reward model that sleeps, for the real shards of a reward server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, Int64

from rlcap.types import Clip

EMBEDDING_DIM = 512


class SleepingReward:
    """A `VersionedModel` that takes a fixed time for each caption, and is its own towers."""

    version = "sleeping"
    encoder_fingerprint = towers_fingerprint = "sleeping"
    towers_bytes = num_bytes = 0

    def __init__(self, caption_s: float) -> None:
        self._caption_s = caption_s

    def embed_audio(self, clips: Sequence[Clip]) -> Float32[np.ndarray, "clip dim"]:
        """Take no time: a caption's time stands for its share of the clip as well."""
        return np.zeros((len(clips), EMBEDDING_DIM), dtype=np.float32)

    def score(
        self,
        audio: Float32[np.ndarray, "clip dim"],  # noqa: ARG002
        captions: Sequence[str],
        clip_index: Int64[np.ndarray, " batch"],  # noqa: ARG002
    ) -> Float32[np.ndarray, " batch"]:
        """Sleep as long as these captions would take a model."""
        time.sleep(self._caption_s * len(captions))
        return np.zeros(len(captions), dtype=np.float32)

    @property
    def towers(self) -> Any:  # noqa: ANN401 - stands for a Clap
        """This model: there is nothing to share."""
        return self

    def without_towers(self) -> Self:
        """This model."""
        return self

    def over(self, towers: Any) -> Self:  # noqa: ANN401, ARG002
        """This model."""
        return self

    def to(self, device: Any) -> Self:  # noqa: ANN401, ARG002
        """This model, which is on no device."""
        return self
