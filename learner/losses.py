"""The terms of the PPO loss as pure functions.

All averages run over valid tokens and take a `divisor`: that of the whole batch which a minibatch is a part of (see
`learner.masking.masked_mean`). Inputs are selected before any non-linear step, because the gradient of
`where(mask, exp(inf), 0)` is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learner.masking import Divisor, keep_valid, masked_mean
from rlcap.config.algorithm import KLEstimator


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The clipped surrogate and how far the policy moved; only `loss` carries a gradient."""

    loss: Float[Tensor, ""]
    approx_kl: Float[Tensor, ""]
    """KL(proximal || policy), by the k3 estimator."""
    clip_fraction: Float[Tensor, ""]
    """Share of tokens whose ratio left the trust region."""


@dataclass(frozen=True, slots=True)
class ValueLoss:
    """The critic's loss; only `loss` carries a gradient."""

    loss: Float[Tensor, ""]
    clip_fraction: Float[Tensor, ""]
    """Share of tokens whose value left the region around the old one."""


def importance_weights(
    proximal_log_probs: Float[Tensor, "batch token"],
    behaviour_log_probs: Float[Tensor, "batch token"],
    action_mask: Bool[Tensor, "batch token"],
    *,
    max_weight: float,
) -> Float[Tensor, "batch token"]:
    """Return `min(proximal / behaviour, max_weight)` a token, without gradient; 1 outside the mask.

    Corrects for rollouts of an older policy. Source: decoupled PPO, Hilton et al. (2022), eq. 5; truncation as in
    Espeholt et al. (2018).
    """
    log_ratio = keep_valid(proximal_log_probs - behaviour_log_probs, action_mask).detach()
    return log_ratio.exp().clamp(max=max_weight)


def policy_loss(
    log_probs: Float[Tensor, "batch token"],
    proximal_log_probs: Float[Tensor, "batch token"],
    advantages: Float[Tensor, "batch token"],
    weights: Float[Tensor, "batch token"],
    action_mask: Bool[Tensor, "batch token"],
    *,
    clip_range: float,
    dual_clip: float = 0.0,
    divisor: Divisor | None = None,
) -> PolicyLoss:
    """Return the clipped surrogate of Schulman et al. (2017), eq. 7, weighted a token by `weights`.

    The trust region lies around the proximal policy: the one that this update began with. A `dual_clip` above 0 bounds
    the ratio by which negative advantages count, which eq. 7 leaves open: Ye et al. (2020), dual-clip PPO.
    """
    log_ratio = keep_valid(log_probs - proximal_log_probs, action_mask)
    advantages = keep_valid(advantages, action_mask) * keep_valid(weights, action_mask)
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - clip_range, 1 + clip_range)
    surrogate = torch.minimum(ratio * advantages, clipped_ratio * advantages)
    if dual_clip:
        surrogate = torch.where(advantages < 0, torch.maximum(surrogate, dual_clip * advantages), surrogate)
    return PolicyLoss(
        loss=-masked_mean(surrogate, action_mask, divisor),
        approx_kl=masked_mean(ratio - 1 - log_ratio, action_mask, divisor).detach(),
        clip_fraction=_share(ratio != clipped_ratio, action_mask, divisor),
    )


def value_loss(
    values: Float[Tensor, "batch token"],
    old_values: Float[Tensor, "batch token"],
    returns: Float[Tensor, "batch token"],
    action_mask: Bool[Tensor, "batch token"],
    *,
    clip_range: float,
    divisor: Divisor | None = None,
) -> ValueLoss:
    """Return half the squared error, or that of the clipped value where it is larger.

    Clipping is around the old values; a `clip_range` of 0 means none.
    """
    values = keep_valid(values, action_mask)
    old_values = keep_valid(old_values, action_mask)
    returns = keep_valid(returns, action_mask)
    errors = (values - returns) ** 2
    if clip_range == 0:
        return ValueLoss(loss=0.5 * masked_mean(errors, action_mask, divisor), clip_fraction=errors.new_zeros(()))
    change = values - old_values
    clipped_change = change.clamp(-clip_range, clip_range)
    pessimistic = torch.maximum(errors, (old_values + clipped_change - returns) ** 2)
    return ValueLoss(
        loss=0.5 * masked_mean(pessimistic, action_mask, divisor),
        clip_fraction=_share(change != clipped_change, action_mask, divisor),
    )


def kl_loss(
    log_probs: Float[Tensor, "batch token"],
    behaviour_log_probs: Float[Tensor, "batch token"],
    ref_log_probs: Float[Tensor, "batch token"],
    action_mask: Bool[Tensor, "batch token"],
    *,
    estimator: KLEstimator,
    max_weight: float,
    divisor: Divisor | None = None,
) -> Float[Tensor, ""]:
    """Return an estimate of KL(policy || reference) whose expected gradient is that of the KL.

    Tokens were drawn from the behaviour policy, so each counts by `policy / behaviour`, at most `max_weight`. The
    gradient of k3 alone is that of KL(reference || policy): its weight must carry a gradient too. For k2 it must not.
    Source of the estimators: Schulman, "Approximating KL divergence" (2020).
    """
    weights = keep_valid(log_probs - behaviour_log_probs, action_mask).exp().clamp(max=max_weight)
    log_ratio = keep_valid(log_probs - ref_log_probs, action_mask)
    if estimator is KLEstimator.k2:
        return masked_mean(weights.detach() * 0.5 * log_ratio**2, action_mask, divisor)
    return masked_mean(weights * ((-log_ratio).exp() - 1 + log_ratio), action_mask, divisor)


def mismatch_kl(
    log_probs: Float[Tensor, "batch token"],
    behaviour_log_probs: Float[Tensor, "batch token"],
    action_mask: Bool[Tensor, "batch token"],
    divisor: Divisor | None = None,
) -> Float[Tensor, ""]:
    """Return KL(behaviour || policy) by the k3 estimator, without gradient.

    Before the first step on fresh rollouts it measures sampler against learner alone, and must be next to 0.
    """
    log_ratio = keep_valid(log_probs - behaviour_log_probs, action_mask).detach()
    return masked_mean(log_ratio.exp() - 1 - log_ratio, action_mask, divisor)


def _share(
    events: Bool[Tensor, "batch token"], mask: Bool[Tensor, "batch token"], divisor: Divisor | None
) -> Float[Tensor, ""]:
    """Return the share of valid tokens on which `events` is True."""
    return masked_mean(events.float(), mask, divisor)
