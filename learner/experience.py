"""What an update learns from: normalised scores become token rewards, and those become advantages."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from learner.advantages import (
    Advantages,
    generalised_advantages,
    grpo_advantages,
    kl_shaped_rewards,
    rloo_advantages,
    scst_advantages,
)
from learner.batching import LearnerBatch
from learner.masking import keep_valid, masked_mean, masked_sum, masked_var, masked_whiten
from learner.normaliser import RewardNormaliser
from rlcap.config.algorithm import AlgorithmKind, KLPlace, PPOConfig
from rlcap.errors import RlcapError


def compute_advantages(batch: LearnerBatch, config: PPOConfig, normaliser: RewardNormaliser) -> Advantages:
    """Return advantages and returns over all tokens of the update; its scores enter the running statistics first.

    Critic-free kinds give every token of a caption the same advantage and use the token rewards' sum.

    Raises:
        RlcapError: If rloo or grpo meet clips that all have one caption only, or scst meets clips without a greedy one.
    """
    if config.normalise_rewards:
        normaliser.observe(batch.scores.numpy(), batch.reward_version)
    scores = _shape_scores(batch.scores, config, normaliser)
    rewards = kl_shaped_rewards(
        scores,
        batch.log_probs,
        batch.ref_log_probs,
        batch.captions.action_mask,
        kl_coef=config.kl_coef if config.kl_in is KLPlace.reward else 0.0,
    )
    if config.kind is AlgorithmKind.ppo:
        return _clip_advantages(_critic_advantages(batch, rewards, config), config.advantage_clip)
    of_captions = _caption_advantages(batch, rewards.sum(dim=1), config, normaliser)
    advantages = keep_valid(of_captions[:, None].expand_as(rewards), batch.captions.action_mask)
    learned = Advantages(advantages=advantages, returns=torch.zeros_like(advantages))
    return _clip_advantages(learned, config.advantage_clip)


def describe(batch: LearnerBatch, learned: Advantages, config: PPOConfig) -> dict[str, float]:
    """Return averages of an update's rollouts, rewards and advantages, by metric name."""
    mask = batch.captions.action_mask
    num_rollouts = len(batch.scores)
    facts: dict[str, float] = {
        "rollout/num_rollouts": num_rollouts,
        "rollout/num_tokens": int(mask.sum()),
        "rollout/failed": batch.num_failed,
    }
    if not num_rollouts:
        return facts
    facts |= {
        "rollout/reward_mean": float(batch.scores.mean()),
        "rollout/reward_std": float(batch.scores.std(correction=0)),
        "rollout/kl_to_reference": float(masked_sum(batch.log_probs - batch.ref_log_probs, mask)) / num_rollouts,
        "rollout/caption_length": float(mask.sum()) / num_rollouts,
        "rollout/truncated": float(batch.truncated.float().mean()),
        "learner/advantage_mean": float(masked_mean(learned.advantages, mask)),
        "learner/advantage_std": float(masked_var(learned.advantages, mask).sqrt()),
    }
    if batch.greedy_scores is not None:
        facts["rollout/greedy_reward_mean"] = float(batch.greedy_scores.mean())
    if config.kind is AlgorithmKind.ppo:
        unexplained = masked_var(learned.returns - batch.values, mask)
        explained = 1 - unexplained / masked_var(learned.returns, mask).clamp(min=1e-8)
        facts["learner/explained_variance"] = float(explained)
    return facts


def _shape_scores(
    scores: Float[Tensor, " batch"], config: PPOConfig, normaliser: RewardNormaliser
) -> Float[Tensor, " batch"]:
    if config.normalise_rewards:
        scores = torch.from_numpy(normaliser.normalise(scores.numpy())).to(scores.dtype)
    return scores.clamp(-config.reward_clip, config.reward_clip) if config.reward_clip else scores


def _caption_advantages(
    batch: LearnerBatch, rewards: Float[Tensor, " batch"], config: PPOConfig, normaliser: RewardNormaliser
) -> Float[Tensor, " batch"]:
    """Return one advantage a caption, against the baseline of a critic-free kind."""
    if config.kind is AlgorithmKind.scst:
        if batch.greedy_scores is None:
            raise RlcapError("scst compares captions with the greedy one of their clip, but none came with these")
        return scst_advantages(rewards, _shape_scores(batch.greedy_scores, config, normaliser))
    if batch.largest_group < 2:
        raise RlcapError(
            f"{config.kind.value} compares the captions of a clip with each other, but every clip came with one only: "
            "raise samples_per_clip, or choose kind ppo or scst"
        )
    of_group = rloo_advantages if config.kind is AlgorithmKind.rloo else grpo_advantages
    return of_group(rewards, batch.captions.clip_index)


def _clip_advantages(learned: Advantages, bound: float) -> Advantages:
    """Bound the advantages, but not the returns; 0 means no bound."""
    return replace(learned, advantages=learned.advantages.clamp(-bound, bound)) if bound else learned


def _critic_advantages(batch: LearnerBatch, rewards: Float[Tensor, "batch token"], config: PPOConfig) -> Advantages:
    learned = generalised_advantages(
        rewards, batch.values, batch.captions.action_mask, gamma=config.gamma, gae_lambda=config.gae_lambda
    )
    if not config.whiten_advantages:
        return learned
    return Advantages(advantages=masked_whiten(learned.advantages, batch.captions.action_mask), returns=learned.returns)
