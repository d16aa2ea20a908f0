"""How terms of single tokens become one loss: what counts the same, and what sums are divided by.

The unit is a token (`token_mean`) or a caption (`caption_mean`). A part of a batch is divided by the number of units
that the whole gives it, so that the parts add up to the whole, however it was split.
"""

from __future__ import annotations

from jaxtyping import Bool, Int64
from torch import Tensor

from learner.masking import Divisor
from rlcap.config.algorithm import LossAggregation


def count_units(mask: Bool[Tensor, "batch token"], aggregation: LossAggregation) -> Int64[Tensor, " batch"]:
    """Return how many units each caption holds."""
    lengths = mask.sum(dim=1)
    return lengths if aggregation is LossAggregation.token_mean else (lengths > 0).long()


def divisor_of(
    mask: Bool[Tensor, "batch token"], aggregation: LossAggregation, num_units: float | None
) -> Divisor | None:
    """Return what the terms of these captions' tokens are divided by; without `num_units`, their own number counts.

    The tokens of a caption are averaged first under `caption_mean`, as in the loss of GRPO (Shao et al., 2024, eq. 3).
    """
    if aggregation is LossAggregation.token_mean:
        return num_units
    units = count_units(mask, aggregation)
    return mask.sum(dim=1, keepdim=True).clamp(min=1) * (int(units.sum()) if num_units is None else num_units)
