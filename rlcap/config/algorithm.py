"""How the learner turns scored rollouts into better weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from rlcap.config.section import Section, must_be_a_share, must_be_positive, must_not_be_negative


class AlgorithmKind(Enum):
    """Where the baseline of the advantages comes from."""

    ppo = "ppo"
    """A critic and generalised advantage estimation (Schulman et al., 2016, 2017)."""
    rloo = "rloo"
    """The mean reward of the other captions of the same clip (Ahmadian et al., 2024); no critic."""
    grpo = "grpo"
    """The mean and spread of the rewards of the clip's captions (Shao et al., 2024); no critic."""
    scst = "scst"
    """The reward of the clip's greedy caption: self-critical sequence training (Rennie et al., 2017); no critic."""


class KLPlace(Enum):
    """Where the penalty for leaving the reference policy acts."""

    reward = "reward"
    """Subtracted from the reward of each token."""
    loss = "loss"
    """Added to the loss."""


class KLEstimator(Enum):
    """Estimators of KL(policy || reference) whose expected gradient is that of the KL itself."""

    k2 = "k2"
    """Half the squared log-ratio: robust."""
    k3 = "k3"
    """Importance-weighted `r - 1 - log r`: its value is unbiased as well, but rare tokens can dominate it."""


@dataclass(kw_only=True)
class PPOConfig(Section):
    """One update of the policy."""

    kind: AlgorithmKind = AlgorithmKind.ppo
    """Source of the baseline; all but `ppo` train no critic, `rloo` and `grpo` need at least two captions a clip."""
    clip_range: float = 0.2
    """Half-width of the trust region on the probability ratio."""
    value_clip_range: float = 0.2
    """Half-width of the region around the old values in which the critic may move; 0 switches clipping off."""
    gamma: float = 1.0
    """Discount from one token to the next."""
    gae_lambda: float = 0.95
    """Trade between bias (0) and variance (1) of the advantages of `ppo`."""
    kl_coef: float = 0.05
    """Weight of the penalty for leaving the reference policy."""
    kl_in: KLPlace = KLPlace.reward
    """Whether the penalty shapes the reward or is a term of the loss."""
    kl_estimator: KLEstimator = KLEstimator.k2
    """Estimator of the penalty where it is a term of the loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    value_coef: float = 0.5
    """Weight of the critic's loss."""
    normalise_rewards: bool = True
    """Whether scores are normalised by the running mean and deviation of their reward version."""
    reward_clip: float = 10.0
    """Bound on the size of a (normalised) score; 0 switches clipping off."""
    whiten_advantages: bool = True
    """Whether the advantages of `ppo` get zero mean and unit deviation over all tokens of the update."""
    num_epochs: int = 2
    """Passes over the rollouts of an update."""
    minibatch_size: int = 64
    """Rollouts behind one optimiser step; groups are never split, so a step may hold fewer (or one larger group)."""
    learning_rate: float = 1e-5
    """Step size of the policy."""
    value_learning_rate: float = 1e-4
    """Step size of the value head."""
    warmup_updates: int = 0
    """Updates over which both step sizes grow linearly from zero."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this norm."""
    target_kl: float = 0.0
    """An update ends early when the policy has moved further than this KL; 0 switches the check off."""
    max_importance_weight: float = 2.0
    """Bound on the weight that corrects for rollouts of an older policy."""

    def faults(self) -> Iterator[str]:
        """Report values outside their range."""
        if not 0 < self.clip_range < 1:
            yield f"clip_range must lie in (0, 1), got {self.clip_range}"
        yield from must_be_a_share(gamma=self.gamma, gae_lambda=self.gae_lambda)
        yield from must_be_positive(
            num_epochs=self.num_epochs,
            minibatch_size=self.minibatch_size,
            learning_rate=self.learning_rate,
            value_learning_rate=self.value_learning_rate,
            max_grad_norm=self.max_grad_norm,
        )
        yield from must_not_be_negative(
            value_clip_range=self.value_clip_range,
            kl_coef=self.kl_coef,
            entropy_coef=self.entropy_coef,
            value_coef=self.value_coef,
            reward_clip=self.reward_clip,
            warmup_updates=self.warmup_updates,
            target_kl=self.target_kl,
        )
        if not self.max_importance_weight >= 1:
            yield f"max_importance_weight must be 1 or more, got {self.max_importance_weight}"
