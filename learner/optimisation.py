"""The optimiser of a captioner: one step size for the policy, another for the value head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from rlcap.config.algorithm import AlgorithmKind, LearningRateSchedule, PPOConfig
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


def set_learning_rates(
    optimizer: torch.optim.Adam, config: PPOConfig, num_done: int, num_updates: int | None = None
) -> None:
    """Set both step sizes for the update that follows `num_done` of `num_updates`.

    The policy's count begins once the critic has warmed up.
    """
    policy, value_head = optimizer.param_groups
    wait = config.critic_warmup_updates
    policy["lr"] = config.learning_rate * _share(config, num_done - wait, num_updates and num_updates - wait)
    value_head["lr"] = config.value_learning_rate * _share(config, num_done, num_updates)


def hold_policy(optimizer: torch.optim.Adam) -> None:
    """Drop the policy's gradient: Adam then leaves its weights and its moments as they are."""
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = None


def _share(config: PPOConfig, num_done: int, num_updates: int | None) -> float:
    """Return the share of the full step size after `num_done` updates."""
    warmup = config.warmup_updates
    if num_done < 0:
        return 0.0
    if num_done < warmup:
        return (num_done + 1) / warmup
    if config.learning_rate_schedule is LearningRateSchedule.constant:
        return 1.0
    assert num_updates is not None, "PPOUpdate asks for it where there is a schedule"
    passed = min(1.0, (num_done - warmup) / max(1, num_updates - warmup))
    if config.learning_rate_schedule is LearningRateSchedule.linear:
        return 1.0 - passed
    return 0.5 * (1 + math.cos(math.pi * passed))


@dataclass(frozen=True, slots=True)
class GradientNorms:
    """Lengths of a step's gradient before clipping; that of a group without gradients is 0."""

    policy: float
    value_head: float


def clip_gradients(optimizer: torch.optim.Adam, max_norm: float) -> GradientNorms:
    """Scale the gradients of policy and value head down to `max_norm`, each where it is longer by itself.

    Clipped as one, a critic that is far off would shrink the policy's gradient with its own.
    """
    policy, value_head = (
        float(nn.utils.clip_grad_norm_(group["params"], max_norm)) for group in optimizer.param_groups
    )
    return GradientNorms(policy, value_head)
