"""How well scores order and foretell human votes: accuracy with its interval, calibration, and by category."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32
from scipy.special import expit

from rlcap.evaluation.statistics import Estimate, bootstrap_over_groups
from rlcap.preferences.agreement import summarise_pairs
from rlcap.preferences.pairs import SCHEMA, PreferencePair, read_pairs

NUM_BINS = 10
"""Bins of the predicted share of votes."""
_SCHEMA = SCHEMA.append(pa.field("score_a", pa.float32())).append(pa.field("score_b", pa.float32()))


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Preference pairs, and the raw score of either caption: P(A over B) = sigmoid(score A - score B)."""

    pairs: tuple[PreferencePair, ...]
    scores_a: Float32[np.ndarray, " pair"]
    scores_b: Float32[np.ndarray, " pair"]

    @classmethod
    def join(cls, parts: Iterable[ScoredPairs]) -> ScoredPairs:
        """Put several sets of pairs into one."""
        some = list(parts)
        return cls(
            tuple(pair for part in some for pair in part.pairs),
            np.concatenate([part.scores_a for part in some]),
            np.concatenate([part.scores_b for part in some]),
        )

    def save(self, path: Path) -> None:
        """Write pairs as `write_pairs` does, with the further columns score_a and score_b."""
        scores = zip(self.scores_a.tolist(), self.scores_b.tolist(), strict=True)
        rows = [
            {**asdict(pair), "score_a": score_a, "score_b": score_b}
            for pair, (score_a, score_b) in zip(self.pairs, scores, strict=True)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), path)

    @classmethod
    def load(cls, path: Path) -> ScoredPairs:
        """Read what `save` wrote. Raises DataError where it cannot be read."""
        pairs = tuple(read_pairs(path))
        table = pq.read_table(path, columns=["score_a", "score_b"])
        return cls(pairs, table["score_a"].to_numpy(), table["score_b"].to_numpy())

    def where(self, keep: Bool[np.ndarray, " pair"]) -> ScoredPairs:
        """Only these pairs."""
        pairs = tuple(pair for pair, kept in zip(self.pairs, keep, strict=True) if kept)
        return ScoredPairs(pairs, self.scores_a[keep], self.scores_b[keep])


@dataclass(frozen=True, slots=True)
class CategoryAccuracy:
    """How well the pairs of one category are ordered."""

    category: str
    """Empty for all pairs together."""
    num_pairs: int
    num_clips: int
    accuracy: Estimate | None
    """Over the pairs with a majority; None where there are none."""
    agreement: float | None
    """How often one annotator is of the others' mind on the pairs with a majority; None where that cannot be said."""


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Pairs, each taken both ways round, whose predicted share of votes for A lies in one range."""

    low: float
    high: float
    predicted: float
    """Mean prediction; pairs count by their votes, here and below."""
    observed: float
    """Share of the votes that A has in fact, a tie counting half."""
    num_votes: int
    """Both ways round, so twice the votes of the pairs, summed over all bins."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Predicted against observed shares of votes."""

    bins: tuple[CalibrationBin, ...]
    """Those that hold any pair, in order."""
    expected_error: float
    """Mean distance of prediction and observation over the bins, by their votes (Guo et al., 2017)."""


@dataclass(frozen=True, slots=True)
class PairFigures:
    """All figures on scored pairs."""

    overall: CategoryAccuracy
    categories: tuple[CategoryAccuracy, ...]
    """Those of pairs that have one, in alphabetical order."""
    calibration: Calibration


def describe_scored_pairs(scored: ScoredPairs) -> PairFigures:
    """Measure scores against votes. Raises ValueError for no pairs."""
    if not scored.pairs:
        raise ValueError("there are no pairs to measure scores on")
    names = np.array([pair.category for pair in scored.pairs])
    return PairFigures(
        overall=_accuracy("", scored),
        categories=tuple(_accuracy(str(name), scored.where(names == name)) for name in np.unique(names[names != ""])),
        calibration=calibrate(scored),
    )


def pair_accuracy(scored: ScoredPairs) -> Estimate | None:
    """Share of the pairs with a majority that the scores order alike, equal scores counting half.

    The interval (95 %) is that of other clips, each drawn with all of its pairs. None where no pair has a majority.
    """
    majority = np.array([pair.majority for pair in scored.pairs])
    decided = majority != 0
    if not decided.any():
        return None
    right = (1 + np.sign(scored.scores_a - scored.scores_b) * majority) / 2
    clip_ids = [pair.clip_id for pair, counts in zip(scored.pairs, decided, strict=True) if counts]
    return bootstrap_over_groups(right[decided], clip_ids)


def calibrate(scored: ScoredPairs, num_bins: int = NUM_BINS) -> Calibration:
    """Hold predicted against observed shares of votes in bins of equal width; which caption is A does not matter."""
    one_way = expit(scored.scores_a.astype(np.float64) - scored.scores_b)
    share = np.array([pair.share_for_a for pair in scored.pairs])
    votes = np.array([len(pair.votes) for pair in scored.pairs])
    predicted, observed = np.concatenate([one_way, 1 - one_way]), np.concatenate([share, 1 - share])
    weights = np.concatenate([votes, votes])
    place = np.minimum((predicted * num_bins).astype(np.int64), num_bins - 1)
    bins = tuple(
        CalibrationBin(
            low=number / num_bins,
            high=(number + 1) / num_bins,
            predicted=float(np.average(predicted[place == number], weights=weights[place == number])),
            observed=float(np.average(observed[place == number], weights=weights[place == number])),
            num_votes=int(weights[place == number].sum()),
        )
        for number in np.unique(place).tolist()
    )
    gaps = [abs(each.predicted - each.observed) * each.num_votes for each in bins]
    return Calibration(bins, float(sum(gaps) / weights.sum()))


def _accuracy(category: str, scored: ScoredPairs) -> CategoryAccuracy:
    found = summarise_pairs(scored.pairs)
    decided = [pair for pair in scored.pairs if pair.majority]
    agreement = summarise_pairs(decided).agreement if decided else None
    return CategoryAccuracy(category, found.num_pairs, found.num_clips, pair_accuracy(scored), agreement)
