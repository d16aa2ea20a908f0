"""The PPO update under RLlib: in process, in one remote learner, or data-parallel in several."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import torch
from jaxtyping import UInt8
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from torch import Tensor, distributed

from learner import saved_state
from learner.batching import Experience
from learner.collective import Collective, LearnerProcessGroup, SingleLearner
from learner.ppo_update import PPOUpdate
from learner.rl_module import CaptionRLModule
from rlcap.captioners.captioner import PolicyOutput
from rlcap.captioners.weights import FlatWeights, publish
from rlcap.config.algorithm import PPOConfig
from rlcap.config.precision import Precision
from rlcap.errors import in_one_line
from rlcap.stacks import show_stack_on_signal
from rlcap.types import ScoredRollouts

log = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 120.0
"""Longest wait for an update's rollouts to come from the machines that sampled them."""

PPO = "ppo"
SEED = "seed"
NUM_UPDATES = "num_updates"
WEIGHTS_PRECISION = "weights_precision"


def learner_settings(
    ppo: PPOConfig,
    seed: int,
    num_updates: int | None = None,
    weights_precision: Precision = Precision.float32,
) -> dict[str, object]:
    """Return what `AlgorithmConfig.training(learner_config_dict=...)` must hold for `CaptionPPOLearner`."""
    return {PPO: ppo, SEED: seed, NUM_UPDATES: num_updates, WEIGHTS_PRECISION: weights_precision}


@dataclass(frozen=True, slots=True)
class UsedBatch:
    """What an update has used of one batch of the stream, as the learner saw it."""

    batch_index: int
    clip_ids: tuple[str, ...]
    num_captions: int
    num_unscored: int
    """Captions that were left out because their score could not be had."""


@dataclass(frozen=True, slots=True)
class LearnerResult:
    """Where one learner stands, and what its last update reported."""

    metrics: dict[str, float]
    policy_version: int
    weights: FlatWeights | None
    """The trainable weights of this version; from the first learner only, and from one in this process only until it
    is asked for the next ones: it fills the same buffers again."""
    publish_s: float = 0.0
    """How long it took to copy them out of the model."""
    failure_reasons: tuple[str, ...] = ()
    """Why rollouts of the update had no score, each reason once."""
    used: tuple[UsedBatch, ...] = ()
    """The batches of the update."""
    missing: tuple[int, ...] = ()
    """Places of the rollouts that were lost on their way, as with a node that held them; then nothing was trained."""


class CaptionPPOLearner(TorchLearner):
    """Runs `PPOUpdate` where RLlib would run its own minibatch loop.

    RLlib gives the processes, their process group and their life cycle. Its loop is not used: it repeats the rows of
    ragged minibatches, averages a minibatch at a time, and hangs on uneven shards.
    """

    ppo_update: PPOUpdate
    _sent: FlatWeights | None = None

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:  # noqa: ANN401
        """Set up the update, and register its optimiser with RLlib."""
        if self.config.num_learners:  # in a process of its own
            show_stack_on_signal()
        settings = (config or self.config).learner_config_dict
        self._collective: Collective = LearnerProcessGroup() if self.config.num_learners > 1 else SingleLearner()
        self.ppo_update = PPOUpdate(
            self._caption_module.captioner,
            settings[PPO],
            seed=settings[SEED],
            num_updates=settings[NUM_UPDATES],
            collective=self._collective,
        )
        optimizer = self.ppo_update.optimizer
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=parameters)

    def compute_loss_for_module(
        self,
        *,
        module_id: str,  # noqa: ARG002
        config: Any,  # noqa: ANN401, ARG002
        batch: Experience,
        fwd_out: dict[str, Tensor],
    ) -> Tensor:
        """Return the loss of a minibatch, for whoever drives this learner by RLlib's interface."""
        return self.ppo_update.objective(PolicyOutput(**fwd_out), batch).loss

    def update(
        self,
        batch: Any = None,  # noqa: ANN401
        batches: Any = None,  # noqa: ANN401
        batch_refs: Any = None,  # noqa: ANN401
        *_: object,
        training_data: TrainingData | None = None,
        **__: object,
    ) -> LearnerResult:
        """Train on `ScoredRollouts`, given by reference (`learner.group.update_learners`) or in process."""
        given = training_data or TrainingData(batch=batch, batches=batches, batch_refs=batch_refs)
        found = [given.batch] if given.batch is not None else given.batches
        if given.batch_refs is not None:
            found = _fetch(given.batch_refs)
        missing = self._missing_anywhere(found)
        if missing:
            return LearnerResult({}, self.ppo_update.policy_version, weights=None, missing=missing)
        scored = [one for one in found if one is not None]
        reasons = dict.fromkeys(reason for one in scored for reason in one.rewards.failure_reasons)
        result = self._result(self.ppo_update.update(scored))
        return replace(result, failure_reasons=tuple(reasons), used=tuple(map(_used, scored)))

    def current(self) -> LearnerResult:
        """Return weights and version as they are, without metrics."""
        return self._result({})

    def hold_update(self) -> saved_state.HeldState | None:
        """Copy the learner's part of a checkpoint; only the first learner does."""
        return saved_state.hold(self.ppo_update) if self._is_first else None

    def load_update(self, content: UInt8[np.ndarray, " byte"], path: str) -> LearnerResult:
        """Go on from the content of a state file, and return the weights."""
        saved_state.restore(self.ppo_update, content, path)
        return self._result({})

    def _missing_anywhere(self, found: Sequence[ScoredRollouts | None]) -> tuple[int, ...]:
        """Agree with the other learners on what cannot be had: none may begin an update that another cannot join."""
        parameter = next(self.ppo_update.captioner.parameters())
        num_missing = torch.tensor([float(one is None) for one in found], device=parameter.device)
        self._collective.sum_in_place(num_missing)
        return tuple(torch.nonzero(num_missing).flatten().tolist())

    def _result(self, metrics: dict[str, float]) -> LearnerResult:
        started = time.perf_counter()
        if self._is_first:
            precision: Precision = self.config.learner_config_dict[WEIGHTS_PRECISION]
            # The weights before are in Ray's object store by now.
            self._sent = publish(self.ppo_update.captioner, trainable_only=True, precision=precision, into=self._sent)
        publish_s = time.perf_counter() - started
        return LearnerResult(metrics, self.ppo_update.policy_version, self._sent, publish_s)

    @property
    def _is_first(self) -> bool:
        return self.config.num_learners <= 1 or distributed.get_rank() == 0

    @property
    def _caption_module(self) -> CaptionRLModule:
        module: CaptionRLModule = self.module[DEFAULT_MODULE_ID]
        return module

    def _make_modules_ddp_if_necessary(self) -> None:
        """Leave the module bare: `PPOUpdate` sums gradients itself, so that learners may have uneven shares."""

    def _get_optimizer_state(self) -> dict[str, Any]:
        return self.ppo_update.training_state()

    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        self.ppo_update.load_training_state(state)


def _used(scored: ScoredRollouts) -> UsedBatch:
    rollouts, failed = scored.rollouts, scored.rewards.failed
    return UsedBatch(rollouts.batch_index, rollouts.clip_ids, len(failed), int(failed.sum()))


def _fetch(refs: Sequence[ray.ObjectRef]) -> list[ScoredRollouts | None]:
    """Get rollouts out of the object store; None stands for those that are lost."""
    ray.wait(list(refs), num_returns=len(refs), timeout=FETCH_TIMEOUT_S)
    found: list[ScoredRollouts | None] = []
    for ref in refs:
        try:
            found.append(ray.get(ref, timeout=0))
        except (ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError) as loss:
            log.warning("rollouts are lost and have to be sampled again: %s", in_one_line(loss))
            found.append(None)
    return found
