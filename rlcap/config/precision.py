"""Arithmetic that settings can choose."""

from __future__ import annotations

from enum import Enum


class Precision(Enum):
    """Of a model's passes; log-softmax and losses are in float32 either way."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class SamplerPrecision(Enum):
    """Of policy and reference in the actors."""

    auto = "auto"
    """bfloat16 on a GPU, float32 on a CPU."""
    float32 = "float32"
    bfloat16 = "bfloat16"

    def on(self, *, gpu: bool) -> Precision:
        """Return what an actor computes in."""
        if self is SamplerPrecision.auto:
            return Precision.bfloat16 if gpu else Precision.float32
        return Precision(self.value)


class SaveDtype(Enum):
    """Of a captioner's weights on disk."""

    as_loaded = "as_loaded"
    """That of the checkpoint they came from; what is new is in float32."""
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
