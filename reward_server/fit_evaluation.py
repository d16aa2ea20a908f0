"""How good a fit is: figures on its held-out pairs, how they grow with the training clips, and over all clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reward_server.fitting import FittedReward, draw_split
from rlcap.config.reward import FitReportConfig, HeadConfig
from rlcap.evaluation.scored_pairs import PairFigures, ScoredPairs, describe_scored_pairs, pair_accuracy
from rlcap.evaluation.statistics import Estimate
from rlcap.preferences.clip_split import ClipSplit, draw_folds
from rlcap.preferences.pairs import PreferencePair

Fit = Callable[[ClipSplit], FittedReward]
"""Fits a reward model anew on other clips."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What a fit on a part of the training clips reaches on the held-out ones."""

    share: float
    num_clips: int
    num_pairs: int
    """Voted pairs of these clips."""
    accuracy: Estimate | None


@dataclass(frozen=True, slots=True)
class FoldFigures:
    """Figures over all clips, each scored by a model that was fitted without it."""

    num_folds: int
    figures: PairFigures


@dataclass(frozen=True, slots=True)
class FitReport:
    """All that is measured of a fit."""

    heldout: PairFigures
    learning_curve: tuple[CurvePoint, ...]
    folds: FoldFigures | None
    """None where no folds were asked for."""


def num_fits(config: FitReportConfig) -> int:
    """How many further fits `evaluate_fit` makes."""
    return sum(share < 1 for share in config.learning_curve) + config.num_folds


def evaluate_fit(
    heldout: ScoredPairs,
    pairs: Sequence[PreferencePair],
    fit: Fit,
    head: HeadConfig,
    config: FitReportConfig,
    *,
    seed: int,
) -> FitReport:
    """Measure a fit on its held-out pairs, and make further ones for the learning curve and the folds.

    `pairs` are all the pairs it was given, `head` and `seed` what decided which of them were held out.
    """
    split = draw_split(pairs, head, seed=seed)
    points = []
    # The clips of a share are among those of every larger one.
    for share in sorted(config.learning_curve):
        part = split.train_on(share)
        scored = heldout if share == 1 else fit(part).heldout
        num_pairs = sum(pair.clip_id in part.training for pair in pairs)
        points.append(CurvePoint(share, len(part.training), num_pairs, pair_accuracy(scored)))
    folds = _over_folds(pairs, fit, head, config.num_folds, seed) if config.num_folds else None
    return FitReport(describe_scored_pairs(heldout), tuple(points), folds)


def _over_folds(pairs: Sequence[PreferencePair], fit: Fit, head: HeadConfig, num_folds: int, seed: int) -> FoldFigures:
    splits = draw_folds((pair.clip_id for pair in pairs), num_folds, head.validation_share, seed=seed)
    return FoldFigures(num_folds, describe_scored_pairs(ScoredPairs.join(fit(split).heldout for split in splits)))
