"""What the optimiser steps of one update add up to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from learner.objective import AVERAGES
from learner.optimisation import GradientNorms


@dataclass(slots=True)
class Progress:
    """Sums over the steps of an update, by tokens or captions as the loss is (see `learner.aggregation`)."""

    totals: Float[Tensor, " average"] = field(default_factory=lambda: torch.zeros(len(AVERAGES)))
    mismatch_kl: float = 0.0
    """KL between sampler and learner before the first step."""
    num_units: int = 0
    num_steps: int = 0
    num_skipped: int = 0
    """Minibatches left out because the policy had moved far enough."""
    grad_norms: float = 0.0
    value_grad_norms: float = 0.0

    def add(self, means: Float[Tensor, " average"], num_units: int, norms: GradientNorms) -> None:
        """Count one step over `num_units` tokens or captions."""
        if self.num_steps == 0:
            self.mismatch_kl = float(means[AVERAGES.index("behaviour_kl")])
        self.totals += means * num_units
        self.num_units += num_units
        self.num_steps += 1
        self.grad_norms += norms.policy
        self.value_grad_norms += norms.value_head

    def metrics(self, left_out: Collection[str]) -> dict[str, float]:
        """Return means over all steps and counts by metric name, `left_out` not among them."""
        counts: dict[str, float] = {
            "learner/num_optimizer_steps": self.num_steps,
            "learner/num_skipped_minibatches": self.num_skipped,
        }
        if not self.num_steps:
            return counts
        means = dict(zip(AVERAGES, (self.totals / self.num_units).tolist(), strict=True))
        means["mismatch_kl"] = self.mismatch_kl
        means["grad_norm"] = self.grad_norms / self.num_steps
        means["value_grad_norm"] = self.value_grad_norms / self.num_steps
        return {**counts, **{f"learner/{name}": mean for name, mean in means.items() if name not in left_out}}
