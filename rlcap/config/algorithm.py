"""How the learner turns scored rollouts into better weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from rlcap.config.precision import Precision
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


class LossAggregation(Enum):
    """What counts the same in the loss."""

    token_mean = "token_mean"
    """Every token: long captions weigh more."""
    caption_mean = "caption_mean"
    """Every caption: its tokens are averaged first, so that length changes nothing."""


class LearningRateSchedule(Enum):
    """How both step sizes go on after their warm-up; the last update still has a step."""

    constant = "constant"
    """As they are."""
    linear = "linear"
    """Down a straight line that reaches 0 after the last update."""
    cosine = "cosine"
    """Down half a cosine that reaches 0 after the last update."""


@dataclass(kw_only=True)
class PPOConfig(Section):
    """One update of the policy."""

    kind: AlgorithmKind = AlgorithmKind.ppo
    """Source of the baseline; all but `ppo` train no critic, `rloo` and `grpo` need at least two captions a clip."""
    clip_range: float = 0.2
    """Half-width of the trust region on the probability ratio."""
    dual_clip: float = 0.0
    """Bound on the ratio by which a token with a negative advantage counts (Ye et al., 2020: 3); 0 switches it off."""
    value_clip_range: float = 0.2
    """Half-width of the region around the old values in which the critic may move; 0 switches clipping off."""
    gamma: float = 1.0
    """Discount from one token to the next."""
    gae_lambda: float = 0.95
    """Trade between bias (0) and variance (1) of the advantages of `ppo`."""
    kl_coef: float = 0.05
    """Weight of the penalty for leaving the reference policy; where it starts if there is a `kl_target`."""
    kl_in: KLPlace = KLPlace.reward
    """Whether the penalty shapes the reward or is a term of the loss."""
    kl_estimator: KLEstimator = KLEstimator.k2
    """Estimator of the penalty where it is a term of the loss."""
    kl_target: float = 0.0
    """KL to the reference, in nats a caption, that the weight is steered to (Ziegler et al., 2019); 0: it is fixed."""
    kl_horizon: float = 1000.0
    """Rollouts in which the steered weight changes by a fifth at most."""
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
    advantage_clip: float = 0.0
    """Bound on the size of an advantage, after whitening; 0 switches clipping off."""
    loss_aggregation: LossAggregation = LossAggregation.token_mean
    """Whether every token counts the same, or every caption."""
    num_epochs: int = 2
    """Passes over the rollouts of an update."""
    minibatch_size: int = 64
    """Rollouts behind one optimiser step; groups are never split, so a step may hold fewer (or one larger group)."""
    microbatch_size: int = 0
    """Rollouts that go through the captioner at once, to save memory; 0 means the whole minibatch."""
    precision: Precision = Precision.float32
    """Arithmetic of the learner's passes; what is trained and the optimiser stay in float32. In float32, what is frozen
    computes in the precision that it is held in."""
    learning_rate: float = 1e-5
    """Step size of the policy; 0: by what is tuned, 5e-4 for a new captioner, 1e-4 for adapters, 1e-5 for a whole given
    one. The run's `config.yaml` holds the number."""
    value_learning_rate: float = 1e-4
    """Step size of the value head."""
    learning_rate_schedule: LearningRateSchedule = LearningRateSchedule.constant
    """How both step sizes go on after their warm-up, up to `training.num_updates`."""
    warmup_updates: int = 0
    """Updates over which both step sizes grow linearly from zero; the policy's grow once it learns."""
    critic_warmup_updates: int = 0
    """First updates of `ppo` in which only the value head learns."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this norm; those of policy and value head each by itself."""
    target_kl: float = 0.0
    """An update ends early when the policy has moved further than this KL; 0 switches the check off."""
    max_importance_weight: float = 2.0
    """Bound on the weight that corrects for rollouts of an older policy, or of a sampler that computes otherwise."""
    recompute_log_probs: bool = False
    """Have the learner score fresh rollouts itself in any case, and correct for what its sampler computed otherwise; it
    always does where one of them does not compute in float32."""
    max_kl: float = 50.0
    """The run stops when the KL to the reference passes this, in nats a caption; 0 switches the guard off."""
    min_entropy: float = 0.0
    """The run stops when the policy's entropy falls below this, in nats a token; 0 switches the guard off."""

    def faults(self) -> Iterator[str]:
        """Report values outside their range, and settings that exclude each other."""
        if not 0 < self.clip_range < 1:
            yield f"clip_range must lie in (0, 1), got {self.clip_range}"
        if self.dual_clip and not self.dual_clip > 1:
            yield f"dual_clip must be above 1, or 0 for none, got {self.dual_clip}"
        yield from must_be_a_share(gamma=self.gamma, gae_lambda=self.gae_lambda)
        yield from must_be_positive(
            kl_horizon=self.kl_horizon,
            num_epochs=self.num_epochs,
            minibatch_size=self.minibatch_size,
            value_learning_rate=self.value_learning_rate,
            max_grad_norm=self.max_grad_norm,
        )
        yield from must_not_be_negative(
            learning_rate=self.learning_rate,
            value_clip_range=self.value_clip_range,
            kl_coef=self.kl_coef,
            kl_target=self.kl_target,
            entropy_coef=self.entropy_coef,
            value_coef=self.value_coef,
            reward_clip=self.reward_clip,
            advantage_clip=self.advantage_clip,
            microbatch_size=self.microbatch_size,
            warmup_updates=self.warmup_updates,
            critic_warmup_updates=self.critic_warmup_updates,
            target_kl=self.target_kl,
            max_kl=self.max_kl,
            min_entropy=self.min_entropy,
        )
        if not self.max_importance_weight >= 1:
            yield f"max_importance_weight must be 1 or more, got {self.max_importance_weight}"
        yield from self._contradictions()

    def _contradictions(self) -> Iterator[str]:
        if self.kl_target > 0 and self.kl_coef == 0:
            yield "kl_coef must be above 0 where kl_target is: it is steered by factors, and 0 stays 0"
        if self.critic_warmup_updates and self.kind is not AlgorithmKind.ppo:
            yield f"critic_warmup_updates must be 0 where kind is {self.kind.value}: there is no critic to warm up"
        if 0 < self.max_kl <= self.kl_target:
            yield f"max_kl must be above kl_target ({self.kl_target}), got {self.max_kl}: the run would stop on its way"
