"""From scores to advantages: KL-shaped token rewards, GAE, and the baselines of RLOO, GRPO and SCST."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from learner.masking import keep_valid


@dataclass(frozen=True, slots=True)
class Advantages:
    """What the policy and the critic learn from; zero outside the mask."""

    advantages: Float[Tensor, "batch token"]
    returns: Float[Tensor, "batch token"]


def is_last_valid(mask: Bool[Tensor, "batch token"]) -> Bool[Tensor, "batch token"]:
    """Return True on the last valid token of each row."""
    num_from_here = mask.flip(1).cumsum(1).flip(1)
    return mask & (num_from_here == 1)


def kl_shaped_rewards(
    scores: Float[Tensor, " batch"],
    log_probs: Float[Tensor, "batch token"],
    ref_log_probs: Float[Tensor, "batch token"],
    action_mask: Bool[Tensor, "batch token"],
    *,
    kl_coef: float,
) -> Float[Tensor, "batch token"]:
    """Return `-kl_coef * (log_probs - ref_log_probs)` a token, plus the score on the last valid one.

    A truncated caption gets its score on its last valid token too: the length limit is part of the task.
    Source: Ziegler et al. (2019), eq. 2.
    """
    penalties = keep_valid(kl_coef * (log_probs - ref_log_probs), action_mask)
    terminal = torch.where(is_last_valid(action_mask), scores[:, None], torch.zeros_like(penalties))
    return terminal - penalties


def generalised_advantages(
    rewards: Float[Tensor, "batch token"],
    values: Float[Tensor, "batch token"],
    action_mask: Bool[Tensor, "batch token"],
    *,
    gamma: float,
    gae_lambda: float,
) -> Advantages:
    """Return GAE(gamma, lambda) advantages and the returns `advantages + values`.

    A masked token neither acts nor discounts: the state behind it passes through to the token before it, so that
    padding and holes change nothing. Nothing follows the last valid token.
    Source: Schulman et al. (2016), eq. 16.
    """
    rewards = keep_valid(rewards, action_mask)
    values = keep_valid(values, action_mask)
    advantages = torch.zeros_like(rewards)
    next_value = torch.zeros_like(rewards[:, 0])
    next_advantage = torch.zeros_like(next_value)
    for token in reversed(range(rewards.shape[1])):
        valid = action_mask[:, token]
        delta = rewards[:, token] + gamma * next_value - values[:, token]
        advantage = delta + gamma * gae_lambda * next_advantage
        next_advantage = torch.where(valid, advantage, next_advantage)
        next_value = torch.where(valid, values[:, token], next_value)
        advantages[:, token] = torch.where(valid, advantage, advantages[:, token])
    return Advantages(advantages=advantages, returns=advantages + values)


def rloo_advantages(rewards: Float[Tensor, " batch"], clip_index: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return each caption's reward minus the mean of the clip's other captions; 0 for an only caption.

    Source: Ahmadian et al. (2024), eq. 8.
    """
    totals, counts = _group_totals(rewards, clip_index)
    others = counts - 1
    baseline = (totals - rewards) / others.clamp(min=1)
    return torch.where(others > 0, rewards - baseline, torch.zeros_like(rewards))


def grpo_advantages(
    rewards: Float[Tensor, " batch"], clip_index: Int64[Tensor, " batch"], *, epsilon: float = 1e-4
) -> Float[Tensor, " batch"]:
    """Return rewards standardised within each clip (sample deviation); 0 for an only caption.

    Source: Shao et al. (2024), section 4.1.2.
    """
    totals, counts = _group_totals(rewards, clip_index)
    deviations = rewards - totals / counts
    squares, _ = _group_totals(deviations**2, clip_index)
    spread = (squares / (counts - 1).clamp(min=1)).sqrt()
    return torch.where(counts > 1, deviations / (spread + epsilon), torch.zeros_like(rewards))


def scst_advantages(
    rewards: Float[Tensor, " batch"], greedy_scores: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Return each caption's reward minus the score of its clip's greedy caption.

    Source: Rennie et al. (2017), eq. 8.
    """
    return rewards - greedy_scores


def _group_totals(
    rewards: Float[Tensor, " batch"], clip_index: Int64[Tensor, " batch"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return, for each caption, the sum of the rewards and the number of captions in its group."""
    num_clips = int(clip_index.max()) + 1 if clip_index.numel() else 0
    totals = rewards.new_zeros(num_clips).index_add_(0, clip_index, rewards)
    counts = rewards.new_zeros(num_clips).index_add_(0, clip_index, torch.ones_like(rewards))
    return totals[clip_index], counts[clip_index]
