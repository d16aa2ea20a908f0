"""The loss of one minibatch, put together from its terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learner.aggregation import divisor_of
from learner.batching import Experience
from learner.losses import importance_weights, kl_loss, mismatch_kl, policy_loss, value_loss
from learner.masking import Divisor, masked_mean
from rlcap.captioners.captioner import PolicyOutput
from rlcap.config.algorithm import AlgorithmKind, KLPlace, PPOConfig

AVERAGES = (
    "loss",
    "policy_loss",
    "value_loss",
    "kl_loss",
    "entropy",
    "approx_kl",
    "clip_fraction",
    "value_clip_fraction",
    "behaviour_kl",
    "importance_weight",
)


def switched_off(config: PPOConfig) -> frozenset[str]:
    """Return those of an update's averages that mean nothing under these settings."""
    critic = frozenset({"value_loss", "value_clip_fraction", "value_grad_norm"})
    reference = frozenset({"kl_loss"})
    return (frozenset() if config.kind is AlgorithmKind.ppo else critic) | (
        frozenset() if config.kl_in is KLPlace.loss else reference
    )


@dataclass(frozen=True, slots=True)
class Objective:
    """What to minimise, and the `AVERAGES` behind it, detached; a term that is switched off is 0."""

    loss: Float[Tensor, ""]
    averages: Float[Tensor, " average"]


def ppo_objective(
    output: PolicyOutput, minibatch: Experience, config: PPOConfig, *, num_units: float | None = None
) -> Objective:
    """Return policy loss, value loss, entropy bonus and KL loss as one objective.

    Terms are averaged over `num_units` tokens or captions, by default over those that are here.
    """
    mask, targets = minibatch.captions.action_mask, minibatch.targets
    divisor = divisor_of(mask, config.loss_aggregation, num_units)
    weights = importance_weights(
        targets.proximal_log_probs, targets.log_probs, mask, max_weight=config.max_importance_weight
    )
    policy = policy_loss(
        output.log_probs,
        targets.proximal_log_probs,
        targets.advantages,
        weights,
        mask,
        clip_range=config.clip_range,
        dual_clip=config.dual_clip,
        divisor=divisor,
    )
    entropy = masked_mean(output.entropy, mask, divisor)
    terms = {
        "policy_loss": policy.loss,
        "entropy": entropy,
        "approx_kl": policy.approx_kl,
        "clip_fraction": policy.clip_fraction,
        "behaviour_kl": mismatch_kl(output.log_probs, targets.log_probs, mask, divisor),
        "importance_weight": masked_mean(weights, mask, divisor),
        **_critic_terms(output, minibatch, config, divisor),
        **_reference_terms(output, minibatch, config, divisor),
    }
    off = entropy.new_zeros(())
    loss = (
        policy.loss
        - (config.entropy_coef * entropy if config.entropy_coef else off)  # its gradient is not free
        + config.value_coef * terms.get("value_loss", off)
        + config.kl_coef * terms.get("kl_loss", off)
    )
    terms["loss"] = loss
    return Objective(loss=loss, averages=torch.stack([terms.get(name, off).detach().float() for name in AVERAGES]))


def _critic_terms(
    output: PolicyOutput, minibatch: Experience, config: PPOConfig, divisor: Divisor | None
) -> dict[str, Tensor]:
    if config.kind is not AlgorithmKind.ppo:
        return {}
    value = value_loss(
        output.values,
        minibatch.targets.old_values,
        minibatch.targets.returns,
        minibatch.captions.action_mask,
        clip_range=config.value_clip_range,
        divisor=divisor,
    )
    return {"value_loss": value.loss, "value_clip_fraction": value.clip_fraction}


def _reference_terms(
    output: PolicyOutput, minibatch: Experience, config: PPOConfig, divisor: Divisor | None
) -> dict[str, Tensor]:
    if config.kl_in is not KLPlace.loss:
        return {}
    kl = kl_loss(
        output.log_probs,
        minibatch.targets.log_probs,
        minibatch.targets.ref_log_probs,
        minibatch.captions.action_mask,
        estimator=config.kl_estimator,
        max_weight=config.max_importance_weight,
        divisor=divisor,
    )
    return {"kl_loss": kl}
