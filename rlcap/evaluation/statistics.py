"""Figures over many captions or verdicts: win rate with its interval, length, variety, repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlcap.preferences.reading import repeated_share


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and the interval that holds it."""

    mean: float
    low: float
    high: float
    num_samples: int


@dataclass(frozen=True, slots=True)
class CaptionStatistics:
    """What a set of captions looks like, whatever it describes."""

    mean_num_words: float
    distinct_share: float
    """Distinct captions over all captions."""
    repetition_share: float
    """Mean share of bigrams that repeat an earlier one of the same caption."""


def bootstrap_mean(values: ArrayLike, seed: int = 0, level: float = 0.95, num_resamples: int = 2000) -> Estimate:
    """Mean with its percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13).

    For win rates, `values` are verdicts in {0, 0.5, 1}, one a clip. Raises ValueError for no values, values that
    are not finite, or a level outside (0, 1).
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not sample.size or not np.isfinite(sample).all():
        raise ValueError(f"values must be a non-empty list of finite numbers, got shape {sample.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    # Verdicts take few values: a resample is a multinomial draw of how often each one occurs.
    distinct, counts = np.unique(sample, return_counts=True)
    rng = np.random.default_rng(seed)
    means = rng.multinomial(sample.size, counts / sample.size, size=num_resamples) @ distinct / sample.size
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(sample.mean()), float(low), float(high), int(sample.size))


def bootstrap_over_groups(
    values: ArrayLike, groups: Sequence[str], seed: int = 0, level: float = 0.95, num_resamples: int = 2000
) -> Estimate:
    """Mean with the interval of a bootstrap that draws whole groups (Davison and Hinkley 1997, ch. 3.8).

    Values of a group, such as the verdicts on the pairs of a clip, depend on each other: drawn one by one, they would
    make the interval too narrow. `num_samples` counts values. Raises ValueError for no values, values that are not
    finite, another number of groups than values, or a level outside (0, 1).
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not sample.size or not np.isfinite(sample).all():
        raise ValueError(f"values must be a non-empty list of finite numbers, got shape {sample.shape}")
    if len(groups) != sample.size:
        raise ValueError(f"groups must name the group of each of the {sample.size} values, got {len(groups)} names")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    _, number = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.bincount(number)
    sums = np.bincount(number, weights=sample)
    rng = np.random.default_rng(seed)
    even = np.full(len(counts), 1 / len(counts))
    drawn = (rng.multinomial(len(counts), even) for _ in range(num_resamples))
    means = [(times @ sums) / (times @ counts) for times in drawn]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(sample.mean()), float(low), float(high), int(sample.size))


def describe_captions(captions: Sequence[str]) -> CaptionStatistics:
    """Length, variety and repetition. Raises ValueError for no captions."""
    if not captions:
        raise ValueError("there are no captions to describe")
    words = [caption.split() for caption in captions]
    return CaptionStatistics(
        mean_num_words=float(np.mean([len(caption) for caption in words])),
        distinct_share=len(set(captions)) / len(captions),
        repetition_share=float(np.mean([repeated_share(caption, order=2) for caption in words])),
    )
