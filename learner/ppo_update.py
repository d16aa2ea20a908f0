"""The PPO update: scored rollouts in, better weights in place.

Averages. With T valid tokens in an update and N minibatches an epoch, the loss of a minibatch is the sum over its
tokens divided by T / N; under `caption_mean` captions take the place of tokens. A token therefore counts the same in
whichever minibatch it falls, a minibatch step has the size of a full-batch step, and the mean of an epoch's minibatch
gradients is the gradient of the token mean over the whole update. Neither padding, nor uneven minibatches, nor the
number of learners change it.

Learners. Every learner of a group is given all rollouts of an update and computes the same advantages and the same
minibatches; it then takes its share of each minibatch's clips, and gradients are summed over the group. Shares may be
uneven or empty.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from learner.aggregation import count_units
from learner.batching import Captions, Experience, LearnerBatch, Targets, deal_clips, merge, rows_of
from learner.collective import Collective, SingleLearner, all_or_none, sum_gradients
from learner.experience import compute_advantages, describe
from learner.guards import Guards
from learner.kl_control import KLCoefficient
from learner.ledger import RolloutLedger
from learner.normaliser import RewardNormaliser
from learner.objective import AVERAGES, Objective, ppo_objective, switched_off
from learner.optimisation import GradientNorms, build_optimizer, clip_gradients, hold_policy, set_learning_rates
from learner.policy_pass import PolicyPass
from learner.progress import Progress
from rlcap.captioners.captioner import Captioner, PolicyOutput
from rlcap.captioners.master_weights import hold_masters
from rlcap.captioners.weights import load_tensors, publish, tensors_in
from rlcap.config.algorithm import LearningRateSchedule, PPOConfig
from rlcap.errors import RlcapError
from rlcap.types import ScoredRollouts

CAPTIONER = "captioner"
"""Where a state dict holds the weights."""


class PPOUpdate:
    """A captioner under training, with its optimiser, schedule, reward statistics and ledger."""

    def __init__(
        self,
        captioner: Captioner,
        config: PPOConfig,
        *,
        seed: int,
        num_updates: int | None = None,
        collective: Collective | None = None,
    ) -> None:
        """Take over the weights of the group's first learner.

        Args:
            captioner: trained in place.
            config: without faults.
            seed: decides the order of minibatches.
            num_updates: of the whole run; a learning-rate schedule needs it.
            collective: the other learners, if there are any.

        Raises:
            ValueError: If there is a schedule and no `num_updates`.
        """
        if num_updates is None and config.learning_rate_schedule is not LearningRateSchedule.constant:
            raise ValueError(f"a {config.learning_rate_schedule.value} schedule needs num_updates, got None")
        hold_masters(captioner, next(captioner.parameters()).device)
        self.captioner = captioner
        self.config = config
        self.optimizer = build_optimizer(captioner, config)
        self.policy_version = 0
        self._seed = seed
        self._num_updates = num_updates
        self._collective = collective or SingleLearner()
        self._passes = PolicyPass(captioner, config, self._collective)
        self._guards = Guards(config, self._passes, self.optimizer)
        self._kl_coefficient = KLCoefficient(config)
        self._normaliser = RewardNormaliser()
        self._ledger = RolloutLedger()
        for tensor in captioner.state_dict().values():
            self._collective.copy_from_first(tensor)

    def update(self, scored: Sequence[ScoredRollouts]) -> dict[str, float]:
        """Train on these rollouts and return what happened, by metric name.

        Raises:
            RlcapError: If a rollout batch is damaged or was used before.
            GuardError: If a guard fired. The weights may be those of a half-finished update: go back to a checkpoint.
        """
        started = time.perf_counter()
        batch = merge(scored)
        staleness = self._staleness(batch)
        self._guards.begin(batch, self.policy_version + 1)
        self._ledger.admit([one.rollouts.batch_index for one in scored])
        # Dropout would make the ratio of an unchanged policy differ from 1.
        self.captioner.eval()
        set_learning_rates(self.optimizer, self.config, self.policy_version, self._num_updates)
        settings = self._settings
        learned = compute_advantages(batch, settings, self._normaliser)
        trusted = batch.sampled_in_float32 & (self._passes.are_in_float32 and not settings.recompute_log_probs)
        recompute = (staleness > 0) | ~trusted
        targets = Targets(
            log_probs=batch.log_probs,
            proximal_log_probs=self._passes.proximal_log_probs(batch, recompute, seed=self._seed),
            ref_log_probs=batch.ref_log_probs,
            old_values=batch.values,
            advantages=learned.advantages,
            returns=learned.returns,
        )
        progress = self._train(Experience(captions=batch.captions, targets=targets))
        self._guards.check_weights()
        self.policy_version += 1
        captions = [caption for one in scored for caption in one.rollouts.captions]
        facts = describe(batch, learned, settings)
        self._kl_coefficient.observe(facts.get("rollout/kl_to_reference", 0.0), len(batch.scores))
        return {
            **facts,
            **progress.metrics(left_out=switched_off(settings)),
            "learner/kl_coef": settings.kl_coef,
            "rollout/distinct_captions": len(set(captions)) / len(captions),
            **_describe_staleness(staleness),
            "learner/learning_rate": self.optimizer.param_groups[0]["lr"],
            "learner/update_s": time.perf_counter() - started,
        }

    def forward(self, captions: Captions) -> PolicyOutput:
        """Score captions under the current weights; each clip is encoded once."""
        return self._passes.forward(captions)

    def objective(self, output: PolicyOutput, minibatch: Experience, *, num_units: float | None = None) -> Objective:
        """Return the loss of a minibatch, averaged over `num_units` tokens or captions."""
        return ppo_objective(output, minibatch, self._settings, num_units=num_units)

    def compute_gradient(
        self, experience: Experience, clips: Int64[Tensor, " clip"], *, num_units: float
    ) -> Float[Tensor, " average"]:
        """Leave the gradient of these clips' loss, summed over all learners, in the parameters.

        Returns:
            The `AVERAGES` behind the loss, summed over all learners as well.
        """
        self.optimizer.zero_grad(set_to_none=True)
        with all_or_none(self._collective, self._passes.device):
            mine = self._passes.my_share(clips)
            averages = self._passes.add_gradient(experience, mine, self._settings, num_units=num_units)
        sum_gradients(self._parameters(), self._collective)
        self._collective.sum_in_place(averages)
        return averages.cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return all that it takes to go on exactly here from the same baseline: what is frozen is left out."""
        return {CAPTIONER: tensors_in(publish(self.captioner, trainable_only=True)), **self.training_state()}

    def training_state(self) -> dict[str, Any]:
        """Return what there is beside the weights: optimiser, counters, reward statistics and ledger."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "policy_version": self.policy_version,
            "seed": self._seed,
            "kl_coef": self._kl_coefficient.state_dict(),
            "normaliser": self._normaliser.state_dict(),
            "ledger": self._ledger.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        load_tensors(self.captioner, state[CAPTIONER])
        self.load_training_state(state)

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take over what `training_state` gave; the weights stay as they are."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.policy_version = state["policy_version"]
        self._seed = state["seed"]
        self._kl_coefficient.load_state_dict(state["kl_coef"])
        self._normaliser.load_state_dict(state["normaliser"])
        self._ledger.load_state_dict(state["ledger"])

    @property
    def _settings(self) -> PPOConfig:
        """The settings as they hold in this update."""
        return replace(self.config, kl_coef=self._kl_coefficient.value)

    def _staleness(self, batch: LearnerBatch) -> Int64[Tensor, " batch"]:
        staleness = self.policy_version - batch.policy_version
        if (staleness < 0).any():
            raise RlcapError(
                f"rollouts of policy version {int(batch.policy_version.max())} came to a learner that is at version "
                f"{self.policy_version}: discard what actors sampled before the learner went back to a checkpoint"
            )
        return staleness

    def _train(self, experience: Experience) -> Progress:
        """Take one optimiser step a minibatch, until the epochs or the trust in the rollouts are used up."""
        progress = Progress()
        captions = experience.captions
        units = count_units(captions.action_mask, self.config.loss_aggregation)
        for epoch in range(self.config.num_epochs):
            seeds = [self._seed, self.policy_version, epoch]
            minibatches = deal_clips(captions.clip_index, self.config.minibatch_size, seeds)
            for position, clips in enumerate(minibatches):
                fair_share = int(units.sum()) / len(minibatches)
                averages = self.compute_gradient(experience, clips, num_units=fair_share)
                num_units = int(units[rows_of(captions.clip_index, clips)].sum())
                means = averages * (fair_share / num_units)
                if not progress.num_steps:
                    self._guards.check_policy(means, experience)
                if self._moved_too_far(means):
                    num_epochs_left = self.config.num_epochs - epoch - 1
                    progress.num_skipped = len(minibatches) * (1 + num_epochs_left) - position
                    return progress
                progress.add(means, num_units, self._step(means, experience, clips))
        return progress

    def _moved_too_far(self, means: Float[Tensor, " average"]) -> bool:
        return 0 < self.config.target_kl < float(means[AVERAGES.index("approx_kl")])

    def _step(
        self, means: Float[Tensor, " average"], experience: Experience, clips: Int64[Tensor, " clip"]
    ) -> GradientNorms:
        """Apply the gradient; return its norms before clipping."""
        if self.policy_version < self.config.critic_warmup_updates:
            hold_policy(self.optimizer)
        norms = clip_gradients(self.optimizer, self.config.max_grad_norm)
        self._guards.check_step(means, norms, experience, clips)
        self.optimizer.step()
        return norms

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def _describe_staleness(staleness: Int64[Tensor, " batch"]) -> dict[str, float]:
    """Return mean and maximum, and the share of the rollouts behind each value."""
    if not len(staleness):
        return {"rollout/staleness": 0.0, "rollout/staleness_max": 0.0}
    values, counts = staleness.unique(return_counts=True)
    shares = zip(values.tolist(), (counts / len(staleness)).tolist(), strict=True)
    return {
        "rollout/staleness": float(staleness.float().mean()),
        "rollout/staleness_max": float(staleness.max()),
        **{f"rollout/staleness_share_{value}": share for value, share in shares},
    }
