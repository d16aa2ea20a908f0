"""Sums and averages over caption tokens.

Padding may hold anything, NaN and infinity included, and 0 * NaN is NaN: values are selected, never multiplied by a
mask. Each function also cuts the gradient of what it leaves out.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Divisor = float | Float[Tensor, "batch 1"]
"""What sums over tokens are divided by: one number, or one for each caption's tokens."""


def keep_valid(values: Float[Tensor, "batch token"], mask: Bool[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
    """Return `values` with zeros where `mask` is False."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def masked_sum(values: Float[Tensor, "batch token"], mask: Bool[Tensor, "batch token"]) -> Float[Tensor, ""]:
    """Return the sum over valid tokens."""
    return keep_valid(values, mask).sum()


def masked_mean(
    values: Float[Tensor, "batch token"],
    mask: Bool[Tensor, "batch token"],
    divisor: Divisor | None = None,
) -> Float[Tensor, ""]:
    """Return the sum over valid tokens divided by `divisor`, or by their number here; 0 where there are none.

    A part of a batch is averaged with the divisor of the whole (see `learner.aggregation`): the averages of the parts
    then add up to that of the whole, however it was split.
    """
    if divisor is None:
        return masked_sum(values, mask) / mask.sum().clamp(min=1)
    if isinstance(divisor, Tensor):
        return (keep_valid(values, mask) / divisor).sum()
    return masked_sum(values, mask) / divisor


def masked_var(values: Float[Tensor, "batch token"], mask: Bool[Tensor, "batch token"]) -> Float[Tensor, ""]:
    """Return the population variance over valid tokens."""
    deviations = keep_valid(values, mask) - masked_mean(values, mask)
    return masked_mean(deviations**2, mask)


def masked_whiten(
    values: Float[Tensor, "batch token"], mask: Bool[Tensor, "batch token"], *, epsilon: float = 1e-8
) -> Float[Tensor, "batch token"]:
    """Return `values` with zero mean and unit variance over valid tokens, and zeros elsewhere."""
    deviations = keep_valid(values, mask) - masked_mean(values, mask)
    return keep_valid(deviations * torch.rsqrt(masked_var(values, mask) + epsilon), mask)
