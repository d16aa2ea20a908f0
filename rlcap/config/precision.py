"""Arithmetic that settings can choose."""

from __future__ import annotations

from enum import Enum


class Precision(Enum):
    """Of a model's passes; log-softmax and losses are in float32 either way."""

    float32 = "float32"
    bfloat16 = "bfloat16"
