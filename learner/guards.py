"""What stops a run before its weights are spoilt, or once the policy has lost its reference or its variety.

Each guard says at which update it fired, the value and the limit, and the clips that weigh most in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from learner.batching import Captions, Experience, LearnerBatch, take_clips
from learner.masking import keep_valid, masked_mean
from learner.objective import AVERAGES
from learner.optimisation import GradientNorms
from learner.policy_pass import PolicyPass
from rlcap.config.algorithm import PPOConfig
from rlcap.errors import GuardError

NUM_NAMED = 3
"""Clips that a message names."""


class Guards:
    """The guards of one learner; `begin` comes first in each update."""

    def __init__(self, config: PPOConfig, passes: PolicyPass, optimizer: torch.optim.Adam) -> None:
        self._config = config
        self._passes = passes
        self._optimizer = optimizer
        self._update = 0
        self._clip_ids: tuple[str, ...] = ()

    def begin(self, batch: LearnerBatch, update: int) -> None:
        """Look at the rollouts of an update, by number, before anything is learned from them.

        Raises:
            GuardError: If they lie further from the reference than `max_kl`; the weights that sampled them are spoilt.
        """
        self._update, self._clip_ids = update, batch.clip_ids
        if not self._config.max_kl or not len(batch.scores):
            return
        of_captions = keep_valid(batch.log_probs - batch.ref_log_probs, batch.captions.action_mask).sum(dim=1)
        kl, limit = float(of_captions.mean()), self._config.max_kl
        if kl <= limit:
            return
        clip_index = batch.captions.clip_index
        # A steered coefficient is not the user's to raise.
        higher_price = f"algorithm.kl_coef={2 * self._config.kl_coef or 0.05:g}"
        of_clips = {int(clip): float(of_captions[clip_index == clip].mean()) for clip in clip_index.unique()}
        worst = self._ranked(of_clips, highest_first=True)
        raise GuardError(
            f"the guard max_kl stopped update {update}: the KL to the reference is {kl:.4g} nats a caption, above "
            f"{limit:g}, and highest on {worst}",
            first_spoilt=int(batch.policy_version.min()),
            remedy=self._smaller_steps if self._config.kl_target else higher_price,
        )

    def check_policy(self, averages: Float[Tensor, " average"], experience: Experience) -> None:
        """Look at the policy that the update begins with, before its first step.

        Raises:
            GuardError: If it has less than `min_entropy` left; it is spoilt.
        """
        entropy, limit = float(averages[AVERAGES.index("entropy")]), self._config.min_entropy
        if entropy >= limit or math.isnan(entropy):
            return
        lowest = self._ranked(self._entropies(experience.captions), highest_first=False)
        raise GuardError(
            f"the guard min_entropy stopped update {self._update}: the policy's entropy is {entropy:.4g} nats a token, "
            f"below {limit:g}, and lowest on {lowest}",
            first_spoilt=self._update - 1,
            remedy=f"algorithm.entropy_coef={2 * self._config.entropy_coef or 0.01:g}",
        )

    def check_step(
        self,
        averages: Float[Tensor, " average"],
        norms: GradientNorms,
        experience: Experience,
        clips: Int64[Tensor, " clip"],
    ) -> None:
        """Look at loss and gradient of a minibatch before a step is taken with them.

        Raises:
            GuardError: If they are not finite.
        """
        loss = float(averages[AVERAGES.index("loss")])
        grad_norm = math.hypot(norms.policy, norms.value_head)
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        unsound = [self._clip_ids[clip] for clip in self._unsound(experience, clips)]
        where = f"on {_listed(unsound)}" if unsound else "although those of every single clip are finite"
        raise self._not_finite(f"the loss is {loss:.4g} and the norm of its gradient {grad_norm:.4g}, {where}")

    def check_weights(self) -> None:
        """Look at what the steps of an update have made of the weights.

        Raises:
            GuardError: If they are not finite.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self._parameters()):
            raise self._not_finite(f"a step of size {self._config.learning_rate:g} left weights that are not")

    def _not_finite(self, what: str) -> GuardError:
        return GuardError(
            f"the guard against numbers that are not finite stopped update {self._update}: {what}",
            first_spoilt=self._update,
            remedy=self._smaller_steps,
        )

    @property
    def _smaller_steps(self) -> str:
        return f"algorithm.learning_rate={self._config.learning_rate / 2:g}"

    def _unsound(self, experience: Experience, clips: Int64[Tensor, " clip"]) -> list[int]:
        """Return those clips whose own loss, or its gradient, is not finite."""
        unsound = []
        for clip in clips:
            self._optimizer.zero_grad(set_to_none=True)
            averages = self._passes.add_gradient(experience, clip[None], self._config, num_units=1.0)
            gradients = [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
            if not all(bool(one.isfinite().all()) for one in (averages, *gradients)):
                unsound.append(int(clip))
        self._optimizer.zero_grad(set_to_none=True)
        return unsound

    @torch.no_grad()
    def _entropies(self, captions: Captions) -> dict[int, float]:
        """Return the mean entropy a token of each clip that has captions."""
        found = {}
        for clip in captions.clip_index.unique():
            part = take_clips(captions, clip[None]).to(self._passes.device)
            found[int(clip)] = float(masked_mean(self._passes.forward(part).entropy, part.action_mask))
        return found

    def _ranked(self, of_clips: dict[int, float], *, highest_first: bool) -> str:
        order = sorted(of_clips, key=lambda clip: of_clips[clip], reverse=highest_first)
        return _listed([f"{self._clip_ids[clip]} ({of_clips[clip]:.4g})" for clip in order])

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]


def _listed(names: Sequence[str]) -> str:
    named, num_left = ", ".join(names[:NUM_NAMED]), len(names) - NUM_NAMED
    return f"{named} and {num_left} more" if num_left > 0 else named
