"""The optimiser of a captioner: one step size for the policy, another for the value head."""

from __future__ import annotations

import math

import torch
from torch import nn

from rlcap.config.algorithm import AlgorithmKind, PPOConfig
from rlcap.errors import RlcapError

VALUE_HEAD = "value_head"


def build_optimizer(captioner: nn.Module, config: PPOConfig) -> torch.optim.Adam:
    """Return Adam over the trainable parameters, in two groups: policy and value head.

    Raises:
        RlcapError: If there is nothing to train, or PPO finds no value head.
    """
    policy: list[nn.Parameter] = []
    value_head: list[nn.Parameter] = []
    for name, parameter in captioner.named_parameters():
        if parameter.requires_grad:
            (value_head if VALUE_HEAD in name.split(".") else policy).append(parameter)
    if not policy:
        raise RlcapError("the captioner has no trainable parameter: unfreeze a part of it, or add adapters")
    if not value_head and config.kind is AlgorithmKind.ppo:
        raise RlcapError(f"ppo needs a trainable module named {VALUE_HEAD} in the captioner; other kinds do without")
    return torch.optim.Adam(
        [{"params": policy, "lr": config.learning_rate}, {"params": value_head, "lr": config.value_learning_rate}]
    )


def set_learning_rates(optimizer: torch.optim.Adam, config: PPOConfig, num_updates: int) -> None:
    """Set both step sizes for the update that follows `num_updates` earlier ones."""
    share = min(1.0, (num_updates + 1) / config.warmup_updates) if config.warmup_updates else 1.0
    policy, value_head = optimizer.param_groups
    policy["lr"] = share * config.learning_rate
    value_head["lr"] = share * config.value_learning_rate


def clip_gradient(optimizer: torch.optim.Adam, max_norm: float) -> float:
    """Scale the whole gradient down to `max_norm` where it is longer; return its norm as it was."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return float(nn.utils.clip_grad_norm_(parameters, max_norm))


def check_finite(loss: float, grad_norm: float, num_updates: int) -> None:
    """Stop before a step that would spoil the weights.

    Raises:
        RlcapError: If loss or gradient are not finite.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    raise RlcapError(
        f"update {num_updates + 1}: the loss is {loss} and the norm of its gradient {grad_norm}; no step was taken "
        "with it. Lower learning_rate or kl_coef, and resume from the last checkpoint"
    )
