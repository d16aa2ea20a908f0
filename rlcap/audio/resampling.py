"""Change of sample rate, with the filters of each pair of rates computed once."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torchaudio.transforms import Resample

MAX_DENOMINATOR = 512
"""Bounds the filters' memory: exact for the rates in use (441 from 44.1 to 16 kHz), and off by less than 4 ppm else."""


def resample(waveform: Float32[np.ndarray, " sample"], from_hz: int, to_hz: int) -> Float32[np.ndarray, " resampled"]:
    """Resample by windowed sinc interpolation; returns `waveform` itself where the rates are equal.

    Raises:
        ValueError: a rate is not positive.
    """
    if from_hz <= 0 or to_hz <= 0:
        raise ValueError(f"sample rates must be positive, got {from_hz} and {to_hz} Hz")
    if from_hz == to_hz:
        return waveform
    # Filters grow with the product of both terms: 44 101 to 16 000 Hz would take 3 GB.
    ratio = Fraction(to_hz, from_hz).limit_denominator(MAX_DENOMINATOR)
    with torch.inference_mode():
        resampler = _resampler(ratio.denominator, ratio.numerator)
        resampled: Float32[np.ndarray, " resampled"] = resampler(to_tensor(waveform)).numpy()
    return resampled


def to_tensor(waveform: Float32[np.ndarray, " sample"]) -> Float[Tensor, " sample"]:
    """Wrap a waveform without a copy, but for one in shared memory: those are read-only, which torch warns about."""
    return torch.from_numpy(waveform if waveform.flags.writeable else waveform.copy())


@lru_cache(maxsize=16)
def _resampler(from_parts: int, to_parts: int) -> Resample:
    return Resample(from_parts, to_parts)
