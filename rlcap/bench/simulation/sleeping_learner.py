"""A learner that sleeps where `PPOUpdate` would train, and the training loop around it and the sleeping actors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.training_data import TrainingData

from learner.ppo_learner import CaptionPPOLearner, LearnerResult, learner_settings, resolve
from rlcap.algorithm.caption_ppo import CaptionPPO
from rlcap.algorithm.settings import RunPlan, algorithm_config
from rlcap.bench.simulation.speeds import Speeds
from rlcap.captioners.weights import FlatWeights

SPEEDS, BUFFER = "speeds", "uint8"


class SleepingLearner(CaptionPPOLearner):
    """Fetches the rollouts as a learner does, sleeps, and returns weights of the given size."""

    def update(
        self,
        batch: Any = None,  # noqa: ANN401
        batches: Any = None,  # noqa: ANN401
        batch_refs: Any = None,  # noqa: ANN401
        *_: object,
        training_data: TrainingData | None = None,
        **__: object,
    ) -> LearnerResult:
        """Sleep for one update."""
        resolve(training_data or TrainingData(batch=batch, batches=batches, batch_refs=batch_refs))
        time.sleep(self._speeds.learner_s)
        self.ppo_update.policy_version += 1
        return self.current()

    def current(self) -> LearnerResult:
        """Return weights of the given size."""
        buffer = np.zeros(int(1e6 * self._speeds.weights_mb), dtype=np.uint8)
        weights = FlatWeights({BUFFER: buffer}, places=(), left_out=()) if self._is_first else None
        return LearnerResult({}, self.ppo_update.policy_version, weights)

    @property
    def _speeds(self) -> Speeds:
        speeds: Speeds = self.config.learner_config_dict[SPEEDS]
        return speeds


class SimulatedPPO(CaptionPPO):
    """The training loop of a run over sleeping actors; RLlib starts the learners only."""

    def __init__(self, config: AlgorithmConfig, actors: Mapping[int, ActorHandle]) -> None:
        self._sleeping_actors = actors
        super().__init__(config)

    def _actors(self) -> dict[int, Any]:
        return dict(self._sleeping_actors)

    def _publish(self, result: LearnerResult) -> None:
        """Send one plain buffer: to unpack `FlatWeights` the actors would have to import Torch."""
        assert result.weights is not None, "the first learner sends its weights"
        self._pipeline.publish(result.policy_version, ray.put(result.weights.buffers[BUFFER]))


def build_simulated_algorithm(plan: RunPlan, speeds: Speeds, actors: Mapping[int, ActorHandle]) -> SimulatedPPO:
    """Start the learners of a simulated run."""
    settings = learner_settings(plan.ppo, plan.seed)
    config = algorithm_config(plan, SimulatedPPO)
    config = config.env_runners(num_env_runners=0).training(
        learner_class=SleepingLearner, learner_config_dict={**settings, SPEEDS: speeds}
    )
    return SimulatedPPO(config, actors)
