"""Whether a candidate may replace the live reward model: both score the same probe set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from scipy.stats import spearmanr

from rlcap.config.reward import ProbeConfig


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """A candidate's scores on the probe set, beside those of the live model."""

    live_version: str
    candidate_version: str
    num_scores: int
    num_missing: int
    """Captions for which the candidate has no finite score."""
    spread: float
    """Standard deviation of the candidate's scores."""
    rank_agreement: float | None
    """Spearman correlation with the live scores; None where one of the two has no order."""
    faults: tuple[str, ...]
    """Why the candidate must not go live; empty where it may."""


def judge_candidate(
    versions: tuple[str, str],
    live: Float32[np.ndarray, " batch"],
    candidate: Float32[np.ndarray, " batch"],
    failure_reasons: Sequence[str],
    config: ProbeConfig,
) -> ProbeReport:
    """Hold a candidate's scores against those of the live model, NaN where there is none.

    `versions` are the live one and the candidate's; `failure_reasons` tell why the candidate's are missing.
    """
    found = np.isfinite(candidate)
    num_missing = int((~found).sum())
    spread = float(candidate[found].std()) if found.any() else 0.0
    agreement = rank_agreement(live, candidate)
    faults = []
    if num_missing:
        faults.append(f"{num_missing} of its {len(candidate)} scores are missing: {'; '.join(failure_reasons)}")
    if spread < config.min_spread:
        faults.append(f"its scores spread by {spread:.3g}, less than min_spread {config.min_spread:.3g}")
    if agreement is not None and agreement < config.min_rank_agreement:
        faults.append(f"its rank agreement {agreement:.3f} is below min_rank_agreement {config.min_rank_agreement:.3f}")
    return ProbeReport(*versions, len(candidate), num_missing, spread, agreement, tuple(faults))


def rank_agreement(live: Float32[np.ndarray, " batch"], candidate: Float32[np.ndarray, " batch"]) -> float | None:
    """Spearman correlation over captions that both could score; None where one of the two has no order."""
    both = np.isfinite(live) & np.isfinite(candidate)
    live, candidate = live[both], candidate[both]
    if len(live) < 2 or np.ptp(live) == 0 or np.ptp(candidate) == 0:
        return None
    return float(spearmanr(live, candidate).statistic)
