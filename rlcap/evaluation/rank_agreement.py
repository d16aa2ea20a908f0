"""How far two reward models order captions alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.stats import spearmanr

from rlcap.evaluation.statistics import Estimate, bootstrap_over_groups


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two captions of a clip that the models put in opposite orders."""

    preferred_by_a: int
    """Row of the caption that model A scores higher, and B lower."""
    preferred_by_b: int
    size: float
    """Both differences of scores, each in standard deviations of its model's scores, added up."""


@dataclass(frozen=True, slots=True)
class RankAgreement:
    """What two models' scores of the same captions have in common."""

    spearman: float | None
    """Rank correlation over all rows; None where a model scores all rows alike."""
    num_rows: int
    same_order: Estimate | None
    """Share of the pairs of captions of a clip that both order alike, a tie of one model counting half; the interval
    draws whole clips. None where no clip has two captions."""
    disagreements: tuple[Disagreement, ...]
    """The largest first."""


def compare_rankings(
    clip_ids: Sequence[str],
    scores_a: Float32[np.ndarray, " row"],
    scores_b: Float32[np.ndarray, " row"],
) -> RankAgreement:
    """Compare two models' scores of the same rows, one clip and caption each.

    Raises:
        ValueError: there are no rows, or a score is not finite.
    """
    if not len(clip_ids) or not (np.isfinite(scores_a).all() and np.isfinite(scores_b).all()):
        raise ValueError(f"scores must be finite, and there must be some, got {len(clip_ids)} rows")
    first, second = _pairs_within(clip_ids)
    gap_a, gap_b = (_standardised(scores)[first] - _standardised(scores)[second] for scores in (scores_a, scores_b))
    alike = (1 + np.sign(gap_a) * np.sign(gap_b)) / 2
    alike[(gap_a == 0) & (gap_b == 0)] = 1.0
    opposite = np.flatnonzero(gap_a * gap_b < 0)
    size = np.abs(gap_a - gap_b)[opposite]
    found = []
    for place in np.argsort(-size, kind="stable").tolist():
        pair = opposite[place]
        order = (first[pair], second[pair]) if gap_a[pair] > 0 else (second[pair], first[pair])
        found.append(Disagreement(int(order[0]), int(order[1]), float(size[place])))
    return RankAgreement(
        spearman=float(spearmanr(scores_a, scores_b).statistic) if np.ptp(scores_a) and np.ptp(scores_b) else None,
        num_rows=len(clip_ids),
        same_order=bootstrap_over_groups(alike, [clip_ids[row] for row in first]) if len(alike) else None,
        disagreements=tuple(found),
    )


def _pairs_within(clip_ids: Sequence[str]) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
    """Rows of all pairs of captions of a clip, each pair once."""
    rows_of: dict[str, list[int]] = {}
    for row, clip_id in enumerate(clip_ids):
        rows_of.setdefault(clip_id, []).append(row)
    sides = [np.array(rows)[np.stack(np.triu_indices(len(rows), k=1))] for rows in rows_of.values()]
    first, second = np.concatenate(sides, axis=1)
    return first, second


def _standardised(scores: Float32[np.ndarray, " row"]) -> Float64[np.ndarray, " row"]:
    """In standard deviations; all zero where there is no spread."""
    wide = scores.astype(np.float64)
    spread = wide.std()
    scaled: Float64[np.ndarray, " row"] = (wide - wide.mean()) / spread if spread else np.zeros_like(wide)
    return scaled
