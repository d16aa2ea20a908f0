"""PPO on captions, as an RLlib algorithm.

RLlib creates and restarts actors and learners, and gives `train()`, Tune and callbacks. The rollouts go round by
direct actor calls: audio stream, actors, reward server, learner, weights, actors.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from actors.audio_cursor import AudioCursor
from actors.messages import RewardReference
from learner.group import learner_weights, load_learners, save_learners, update_learners
from learner.ppo_learner import LearnerResult
from rlcap.algorithm.rollout_pipeline import CollectedBatch, RolloutPipeline
from rlcap.algorithm.settings import CaptionPPOConfig, RunPlan, algorithm_config
from rlcap.captioners.loading import load_captioner
from rlcap.captioners.weights import load_into
from rlcap.errors import CheckpointError
from rlcap.protocols import RewardClient
from rlcap.types import Quarantined, ScoredRollouts

LEARNER, CAPTIONER, STATE = "learner", "captioner", "state.json"
METRICS = "rlcap"


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one update was made of."""

    update: int
    """Number of updates behind the weights, this one included."""
    metrics: dict[str, float]
    quarantined: tuple[Quarantined, ...]
    failure_reasons: tuple[str, ...]
    """Why captions could not be scored, each reason once."""
    batches: tuple[CollectedBatch, ...]

    def first_rollouts(self) -> ScoredRollouts:
        """Fetch the first batch, for sample captions."""
        scored: ScoredRollouts = ray.get(self.batches[0].rollouts)
        return scored


class CaptionPPO(Algorithm):
    """The training loop; one `training_step` is one update."""

    last_report: UpdateReport
    check_interrupt: Callable[[], None]

    @classmethod
    def get_default_config(cls) -> CaptionPPOConfig:
        """Return settings without a plan."""
        return CaptionPPOConfig(cls)

    def setup(self, config: AlgorithmConfig) -> None:
        """Start actors and learners, then the rollout pipeline."""
        super().setup(config)
        self._plan: RunPlan = config.env_config["run"]
        self._update = 0
        self.check_interrupt = lambda: None
        self._policy = load_captioner(self._plan.baseline)
        self._reward = RewardReference(ray.put(self._plan.reward_client))
        self._start_pipeline(learner_weights(self.learner_group), self._new_cursor())

    def training_step(self) -> None:
        """Collect one update's rollouts, train on them, publish the new weights."""
        start = time.monotonic()
        batches = self._pipeline.collect(self._update)
        collected = time.monotonic()
        result = update_learners(self.learner_group, [batch.rollouts for batch in batches])
        self._update += 1
        self._publish(result)
        done = time.monotonic()
        timings = _timings(batches, waited_s=collected - start, wall_s=done - start, update_s=done - collected)
        self.last_report = UpdateReport(
            update=self._update,
            metrics={**result.metrics, **timings, **self._batch_counts()},
            quarantined=(
                *self._pipeline.take_quarantined(),
                *(item for batch in batches for item in batch.info.quarantined),
            ),
            failure_reasons=result.failure_reasons,
            batches=tuple(batches),
        )
        for name, value in self.last_report.metrics.items():
            self.metrics.log_value((METRICS, name), value, window=1)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the captioner in Hugging Face layout, the learner's state, and where the stream stands."""
        directory = Path(checkpoint_dir)
        self._policy.save(directory / CAPTIONER)
        save_learners(self.learner_group, directory / LEARNER)
        cursor = self._cursor_at(self._pipeline.next_batch)
        state = {"update": self._update, "cursor": cursor.state_dict()}
        (directory / STATE).write_text(json.dumps(state, indent=2) + "\n")

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Go on where `save_checkpoint` was called; in synchronous mode bit for bit.

        Raises:
            CheckpointError: it is damaged, or of another captioner or audio stream.
        """
        directory = Path(checkpoint_dir)
        try:
            state = json.loads((directory / STATE).read_text())
            self._update = int(state["update"])
        except (OSError, ValueError, KeyError, TypeError) as damage:
            raise CheckpointError(f"{directory} is no checkpoint of a run: {damage}") from damage
        cursor = self._new_cursor()
        cursor.load_state_dict(state["cursor"])  # refuses another stream
        self._start_pipeline(load_learners(self.learner_group, directory / LEARNER), cursor)

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:  # noqa: ARG002
        """Leave restarts to Ray: requests carry all that a restarted actor needs."""
        return []

    def use_reward(self, reward_client: RewardClient) -> int:
        """Score by this client from an update on of which nothing is under way yet; returns its number, from 1."""
        self._reward = RewardReference(ray.put(reward_client))
        return self._pipeline.use_reward(self._reward) + 1

    @property
    def num_updates_done(self) -> int:
        """Updates behind the current weights."""
        return self._update

    def cleanup(self) -> None:
        """Stop actors and learners."""
        super().cleanup()
        if self._storage is None:
            shutil.rmtree(self._logdir, ignore_errors=True)

    def _setup_logdir(self) -> None:
        """Keep Tune's folder where there is Tune; otherwise RLlib would leave an empty one among the user's results."""
        if self._storage is not None:
            super()._setup_logdir()
            return
        self._logdir = tempfile.mkdtemp(prefix="rlcap-")

    def _start_pipeline(self, result: LearnerResult, cursor: AudioCursor) -> None:
        training, cluster = self._plan.training, self._plan.cluster
        self._pipeline = RolloutPipeline(
            self._actors(),
            cursor,
            self._reward,
            batches_per_update=training.batches_per_update,
            max_staleness=cluster.max_staleness,
            timeout_s=cluster.rollout_timeout_s,
            check_interrupt=lambda: self.check_interrupt(),
        )
        self._publish(result)

    def _publish(self, result: LearnerResult) -> None:
        assert result.weights is not None, "answers come in learner order, and the first learner sends its weights"
        load_into(self._policy, result.weights)
        self._pipeline.publish(result.policy_version, ray.put(result.weights))

    def _actors(self) -> dict[int, Any]:
        # The one place that reads a private member of RLlib: it has no public way to the actor handles.
        return dict(self.env_runner_group._worker_manager.actors())

    def _new_cursor(self) -> AudioCursor:
        clips_per_request = self._plan.training.clips_per_batch // self._plan.training.batches_per_update
        return AudioCursor(len(self._plan.actor.source), clips_per_request, self._plan.seed)

    def _cursor_at(self, next_batch: int) -> AudioCursor:
        """Return the stream as it stands before a batch, with nothing in flight."""
        cursor = self._new_cursor()
        cursor.load_state_dict({**cursor.state_dict(), "next_batch": next_batch})
        return cursor

    def _batch_counts(self) -> dict[str, float]:
        return {
            "actors/lost_batches": float(self._pipeline.num_lost),
            "actors/skipped_batches": float(self._pipeline.num_skipped),
            "actors/rescored_batches": float(self._pipeline.num_rescored),
        }


def build_algorithm(plan: RunPlan) -> CaptionPPO:
    """Start a run's actors and learners."""
    return CaptionPPO(algorithm_config(plan, CaptionPPO))


def _timings(batches: Sequence[CollectedBatch], *, waited_s: float, wall_s: float, update_s: float) -> dict[str, float]:
    num_captions = sum(batch.info.num_captions for batch in batches)
    return {
        "time/captions_per_s": num_captions / wall_s,
        "time/audio_s_per_s": sum(batch.info.audio_s for batch in batches) / wall_s,
        "time/update_s": update_s,
        "time/wait_for_rollouts_s": waited_s,
        "time/batch_s": sum(batch.info.wall_s for batch in batches) / len(batches),
    }
