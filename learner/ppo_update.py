"""The PPO update: scored rollouts in, better weights in place.

Averages. With T valid tokens in an update and N minibatches an epoch, the loss of a minibatch is the sum over its
tokens divided by T / N. A token therefore counts the same in whichever minibatch it falls, a minibatch step has the
size of a full-batch step, and the mean of an epoch's minibatch gradients is the gradient of the token mean over the
whole update. Neither padding, nor uneven minibatches, nor the number of learners change it.

Learners. Every learner of a group is given all rollouts of an update and computes the same advantages and the same
minibatches; it then takes its share of each minibatch's clips, and gradients are summed over the group. Shares may be
uneven or empty.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from learner.batching import (
    Captions,
    Experience,
    LearnerBatch,
    Targets,
    deal_clips,
    merge,
    rows_of,
    take_clips,
    take_minibatch,
)
from learner.collective import Collective, SingleLearner, all_or_none, sum_gradients
from learner.experience import compute_advantages, describe
from learner.ledger import RolloutLedger
from learner.normaliser import RewardNormaliser
from learner.objective import AVERAGES, Objective, ppo_objective, switched_off
from learner.optimisation import build_optimizer, check_finite, clip_gradient, set_learning_rates
from learner.progress import Progress
from rlcap.captioners.captioner import Captioner, PolicyOutput
from rlcap.config.algorithm import PPOConfig
from rlcap.errors import RlcapError
from rlcap.types import ScoredRollouts


class PPOUpdate:
    """A captioner under training, with its optimiser, schedule, reward statistics and ledger."""

    def __init__(
        self, captioner: Captioner, config: PPOConfig, *, seed: int, collective: Collective | None = None
    ) -> None:
        self.captioner = captioner
        self.config = config
        self.optimizer = build_optimizer(captioner, config)
        self.policy_version = 0
        self._seed = seed
        self._collective = collective or SingleLearner()
        self._normaliser = RewardNormaliser()
        self._ledger = RolloutLedger()
        self._device = next(captioner.parameters()).device
        for tensor in captioner.state_dict().values():
            self._collective.copy_from_first(tensor)

    def update(self, scored: Sequence[ScoredRollouts]) -> dict[str, float]:
        """Train on these rollouts and return what happened, by metric name.

        Raises:
            RlcapError: If a rollout batch is damaged or was used before, or the loss or its gradient is not finite.
                The weights may then be those of a half-finished update: go back to a checkpoint.
        """
        started = time.perf_counter()
        batch = merge(scored)
        staleness = self._staleness(batch)
        self._ledger.admit([one.rollouts.batch_index for one in scored])
        # Dropout would make the ratio of an unchanged policy differ from 1.
        self.captioner.eval()
        set_learning_rates(self.optimizer, self.config, self.policy_version)
        learned = compute_advantages(batch, self.config, self._normaliser)
        targets = Targets(
            log_probs=batch.log_probs,
            proximal_log_probs=self._proximal_log_probs(batch, staleness > 0),
            ref_log_probs=batch.ref_log_probs,
            old_values=batch.values,
            advantages=learned.advantages,
            returns=learned.returns,
        )
        progress = self._train(Experience(captions=batch.captions, targets=targets))
        self.policy_version += 1
        captions = [caption for one in scored for caption in one.rollouts.captions]
        return {
            **describe(batch, learned, self.config),
            **progress.metrics(left_out=switched_off(self.config)),
            "rollout/distinct_captions": len(set(captions)) / len(captions),
            "rollout/staleness": float(staleness.float().mean()) if len(staleness) else 0.0,
            "learner/learning_rate": self.optimizer.param_groups[0]["lr"],
            "learner/update_s": time.perf_counter() - started,
        }

    def forward(self, captions: Captions) -> PolicyOutput:
        """Score captions under the current weights; each clip is encoded once."""
        encoding = self.captioner.encode(captions.frames, captions.frame_mask)
        return self.captioner.log_probs(
            encoding,
            captions.clip_index,
            captions.tokens,
            captions.action_mask,
            captions.temperature,
            captions.support_sizes,
        )

    def objective(self, output: PolicyOutput, minibatch: Experience, *, num_tokens: float | None = None) -> Objective:
        """Return the loss of a minibatch; sums over tokens are divided by `num_tokens`."""
        return ppo_objective(output, minibatch, self.config, num_tokens=num_tokens)

    def compute_gradient(
        self, experience: Experience, clips: Int64[Tensor, " clip"], *, num_tokens: float
    ) -> Float[Tensor, " average"]:
        """Leave the gradient of these clips' loss, summed over all learners, in the parameters.

        Returns:
            The `AVERAGES` behind the loss, summed over all learners as well.
        """
        self.optimizer.zero_grad(set_to_none=True)
        averages = torch.zeros(len(AVERAGES), device=self._device)
        mine = self._my_share(clips)
        with all_or_none(self._collective, self._device):
            if len(mine):
                minibatch = take_minibatch(experience, mine).to(self._device)
                objective = self.objective(self.forward(minibatch.captions), minibatch, num_tokens=num_tokens)
                torch.autograd.backward(objective.loss)
                averages = objective.averages
        sum_gradients(self._parameters(), self._collective)
        self._collective.sum_in_place(averages)
        return averages.cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return all that it takes to go on exactly here, weights included."""
        return {"captioner": self.captioner.state_dict(), **self.training_state()}

    def training_state(self) -> dict[str, Any]:
        """Return what there is beside the weights: optimiser, counters, reward statistics and ledger."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "policy_version": self.policy_version,
            "seed": self._seed,
            "normaliser": self._normaliser.state_dict(),
            "ledger": self._ledger.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.captioner.load_state_dict(state["captioner"])
        self.load_training_state(state)

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take over what `training_state` gave; the weights stay as they are."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.policy_version = state["policy_version"]
        self._seed = state["seed"]
        self._normaliser.load_state_dict(state["normaliser"])
        self._ledger.load_state_dict(state["ledger"])

    def _staleness(self, batch: LearnerBatch) -> Int64[Tensor, " batch"]:
        staleness = self.policy_version - batch.policy_version
        if (staleness < 0).any():
            raise RlcapError(
                f"rollouts of policy version {int(batch.policy_version.max())} came to a learner that is at version "
                f"{self.policy_version}: discard what actors sampled before the learner went back to a checkpoint"
            )
        return staleness

    @torch.no_grad()
    def _proximal_log_probs(self, batch: LearnerBatch, stale: Bool[Tensor, " batch"]) -> Float[Tensor, "batch token"]:
        """Return log-probs under the weights that this update begins with; fresh rollouts carry them already."""
        if not stale.any():
            return batch.log_probs
        captions = batch.captions
        recomputed = torch.zeros_like(batch.log_probs)
        with all_or_none(self._collective, self._device):
            for clips in deal_clips(captions.clip_index[stale], self.config.minibatch_size, [self._seed]):
                mine = self._my_share(clips)
                if len(mine):
                    part = take_clips(captions, mine).to(self._device)
                    rows = rows_of(captions.clip_index, mine)
                    recomputed[rows, : part.tokens.shape[1]] = self.forward(part).log_probs.float().cpu()
        recomputed = recomputed.to(self._device)
        self._collective.sum_in_place(recomputed)
        return torch.where(stale[:, None], recomputed.cpu(), batch.log_probs)

    def _train(self, experience: Experience) -> Progress:
        """Take one optimiser step a minibatch, until the epochs or the trust in the rollouts are used up."""
        progress = Progress()
        captions = experience.captions
        lengths = captions.action_mask.sum(dim=1)
        for epoch in range(self.config.num_epochs):
            seeds = [self._seed, self.policy_version, epoch]
            minibatches = deal_clips(captions.clip_index, self.config.minibatch_size, seeds)
            for position, clips in enumerate(minibatches):
                fair_share = int(lengths.sum()) / len(minibatches)
                averages = self.compute_gradient(experience, clips, num_tokens=fair_share)
                num_tokens = int(lengths[rows_of(captions.clip_index, clips)].sum())
                token_means = averages * (fair_share / num_tokens)
                if self._moved_too_far(token_means):
                    num_epochs_left = self.config.num_epochs - epoch - 1
                    progress.num_skipped = len(minibatches) * (1 + num_epochs_left) - position
                    return progress
                progress.add(token_means, num_tokens, self._step(averages))
        return progress

    def _moved_too_far(self, token_means: Float[Tensor, " average"]) -> bool:
        return 0 < self.config.target_kl < float(token_means[AVERAGES.index("approx_kl")])

    def _step(self, averages: Float[Tensor, " average"]) -> float:
        """Apply the gradient; return its norm before clipping."""
        grad_norm = clip_gradient(self.optimizer, self.config.max_grad_norm)
        check_finite(float(averages[AVERAGES.index("loss")]), grad_norm, self.policy_version)
        self.optimizer.step()
        return grad_norm

    def _my_share(self, clips: Int64[Tensor, " clip"]) -> Int64[Tensor, " clip"]:
        return clips[self._collective.rank :: self._collective.num_learners]

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
