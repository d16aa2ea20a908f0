"""Arithmetic that settings can choose."""

from __future__ import annotations

from enum import Enum


class Precision(Enum):
    """Of a model's passes; log-softmax and losses are in float32 either way."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class SaveDtype(Enum):
    """Of a captioner's weights on disk."""

    as_loaded = "as_loaded"
    """That of the checkpoint they came from; what is new is in float32."""
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
