"""A learner that sleeps where it would train, and the training loop around it and the sleeping actors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner import EnvRunner

from actors.env_runner import CaptionEnvRunner
from learner.ppo_learner import CaptionPPOLearner, LearnerResult, learner_settings
from learner.ppo_update import PPOUpdate
from rlcap.algorithm.caption_ppo import CaptionPPO
from rlcap.algorithm.settings import RunPlan, algorithm_config
from rlcap.bench.simulation.speeds import Speeds
from rlcap.captioners.captioner import Captioner
from rlcap.captioners.weights import FlatWeights
from rlcap.config.algorithm import PPOConfig
from rlcap.types import ScoredRollouts

SPEEDS, BUFFER = "speeds", "uint8"


class SleepingUpdate(PPOUpdate):
    """Takes the given time for an update, and changes nothing."""

    def __init__(self, captioner: Captioner, duration_s: float) -> None:
        super().__init__(captioner, PPOConfig(), seed=0)
        self._duration_s = duration_s

    def update(self, scored: Sequence[ScoredRollouts]) -> dict[str, float]:
        """Sleep."""
        time.sleep(self._duration_s)
        oldest = min(one.rollouts.policy_version for one in scored)
        staleness = self.policy_version - oldest
        self.policy_version += 1
        return {"rollout/staleness_max": float(staleness)}


class SleepingLearner(CaptionPPOLearner):
    """Fetches the rollouts as a learner does, sleeps, and returns weights of the given size."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:  # noqa: ANN401
        """Put an update that sleeps in the place of the real one."""
        super().configure_optimizers_for_module(module_id, config)
        self.ppo_update = SleepingUpdate(self.ppo_update.captioner, self._speeds.learner_s)

    def _result(self, metrics: dict[str, float]) -> LearnerResult:
        buffer = np.zeros(int(1e6 * self._speeds.weights_mb), dtype=np.uint8)
        weights = FlatWeights({BUFFER: buffer}, places=(), left_out=()) if self._is_first else None
        return LearnerResult(metrics, self.ppo_update.policy_version, weights)

    @property
    def _speeds(self) -> Speeds:
        speeds: Speeds = self.config.learner_config_dict[SPEEDS]
        return speeds


class NoEnvRunner(CaptionEnvRunner):
    """What RLlib makes in the driver where it is to start no actors: it is never asked for anything."""

    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:  # noqa: ANN401 - RLlib's signature
        EnvRunner.__init__(self, config=config, **kwargs)

    def assert_healthy(self) -> None:
        """There is nothing that could ail it."""


class SimulatedPPO(CaptionPPO):
    """The training loop of a run over sleeping actors; RLlib starts the learners only."""

    def __init__(self, config: AlgorithmConfig, actors: Mapping[int, ActorHandle]) -> None:
        self._sleeping_actors = actors
        super().__init__(config)

    def _actors(self) -> dict[int, Any]:
        return dict(self._sleeping_actors)

    def _publish(self, result: LearnerResult) -> dict[str, float]:
        """Send one plain buffer: to unpack `FlatWeights` the actors would have to import Torch."""
        assert result.weights is not None, "the first learner sends its weights"
        self._pipeline.publish(result.policy_version, ray.put(result.weights.buffers[BUFFER]))
        return {}


def build_simulated_algorithm(plan: RunPlan, speeds: Speeds, actors: Mapping[int, ActorHandle]) -> SimulatedPPO:
    """Start the learners of a simulated run."""
    settings = learner_settings(plan.ppo, plan.seed, plan.training.num_updates)
    config = algorithm_config(plan, SimulatedPPO)
    config = config.env_runners(env_runner_cls=NoEnvRunner, num_env_runners=0).training(
        learner_class=SleepingLearner, learner_config_dict={**settings, SPEEDS: speeds}
    )
    return SimulatedPPO(config, actors)
