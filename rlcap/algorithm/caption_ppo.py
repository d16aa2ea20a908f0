"""PPO on captions, as an RLlib algorithm.

RLlib creates and restarts actors and learners, and gives `train()`, Tune and callbacks. The rollouts go round by
direct actor calls: audio stream, actors, reward server, learner, weights, actors.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from actors.audio_cursor import AudioCursor, CursorBatch
from actors.messages import RewardReference
from learner import saved_state
from learner.group import hold_learners, learner_weights, load_learners, update_learners
from learner.ppo_learner import LearnerResult
from rlcap.algorithm.actor_changes import ActorChange, ActorChanges, ActorCounts
from rlcap.algorithm.actor_start import first_ready, spaces_at_hand
from rlcap.algorithm.batch_counts import BatchCounts
from rlcap.algorithm.ready_batches import CollectedBatch
from rlcap.algorithm.rollout_pipeline import MAX_ATTEMPTS, RolloutPipeline
from rlcap.algorithm.settings import CaptionPPOConfig, RunPlan, algorithm_config
from rlcap.algorithm.spans import LEARN, PUBLISH, WAIT, SpanLog
from rlcap.algorithm.standpoints import standpoints
from rlcap.algorithm.update_report import UpdateReport
from rlcap.algorithm.watchdog import Watchdog
from rlcap.captioners.loading import load_captioner
from rlcap.captioners.weights import load_into
from rlcap.errors import ActorLostError, CheckpointError
from rlcap.protocols import RewardClient

LEARNER, CAPTIONER, STATE = "learner", "captioner", "state.json"
METRICS = "rlcap"


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
        self._plan: RunPlan = config.env_config["run"]
        self._update = 0
        self._changes = ActorChanges()
        self._learning = False
        self._spans = SpanLog()
        self.check_interrupt = lambda: None
        with spaces_at_hand():
            super().setup(config)
        self._policy = load_captioner(self._plan.baseline)
        self._reward = RewardReference(ray.put(self._plan.reward_client))
        self._start_pipeline(learner_weights(self.learner_group), self._new_cursor(), BatchCounts())
        self._watchdog = Watchdog(self._plan.cluster.stall_s, self._progress, self._describe)

    def training_step(self) -> None:
        """Collect one update's rollouts, train on them, publish the new weights."""
        self._changes.grant(self._change_actors)
        start, first = time.monotonic(), self._pipeline.next_batch
        with self._watchdog.watching():
            batches, result, waited_s = self._collect_and_update()
        self._update += 1
        with self._spans.span(PUBLISH):
            sent = self._publish(result)
        if self._update != self._plan.training.num_updates:
            self._pipeline.ask_ahead()  # actors begin while this process reports, and whatever else its caller does
        done = time.monotonic()
        timings = _timings(batches, waited_s=waited_s, wall_s=done - start)
        self.last_report = UpdateReport(
            update=self._update,
            metrics={**result.metrics, **timings, **sent, **self._actor_counts()},
            quarantined=(
                *self._pipeline.take_quarantined(),
                *(item for batch in batches for item in batch.info.quarantined),
            ),
            failure_reasons=result.failure_reasons,
            batches=tuple(batches),
            used=result.used,
            skipped=self._skipped_since(first, batches),
            spans=self._spans.take(),
        )
        for name, value in self.last_report.metrics.items():
            self.metrics.log_value((METRICS, name), value, window=1)

    def _collect_and_update(self) -> tuple[list[CollectedBatch], LearnerResult, float]:
        """Train on the next update's rollouts; those that are lost with a node are sampled again first."""
        waited_s = 0.0
        for _ in range(MAX_ATTEMPTS):
            start = time.monotonic()
            with self._spans.span(WAIT):
                batches = self._pipeline.collect(self._update)
            waited_s += time.monotonic() - start
            with self._pipeline.feeding(), self._learning_noted(), self._spans.span(LEARN):
                rollouts = [batch.rollouts for batch in batches]
                result = update_learners(self.learner_group, rollouts, self._plan.cluster.learner_timeout_s)
            if not result.missing:
                staleness = result.metrics["rollout/staleness_max"]
                assert staleness <= self._plan.cluster.max_staleness, "the bound, by what the rollouts themselves say"
                return batches, result, waited_s
            self._pipeline.take_back(batches, result.missing)
        raise ActorLostError(
            f"rollouts of update {self._update + 1} were lost {MAX_ATTEMPTS} times before the learner had them; "
            "see Ray's logs for why nodes leave"
        )

    def snapshot(self) -> Callable[[Path], None]:
        """Hold the run as it is now in memory, and return what writes it into a folder, whatever came after.

        Snapshots are written one at a time, in any thread.
        """
        cursor = self._cursor_at(self._pipeline.next_batch)
        state = {"update": self._update, "cursor": cursor.state_dict(), "counts": self._pipeline.counts.metrics()}
        return partial(self._write, state, hold_learners(self.learner_group))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the captioner in Hugging Face layout, the learner's state, and where the stream stands."""
        self.snapshot()(Path(checkpoint_dir))

    def _write(self, state: dict[str, object], learner: saved_state.HeldState, directory: Path) -> None:
        load_into(self._policy, learner.weights)
        self._policy.save(directory / CAPTIONER)
        saved_state.write(learner, directory / LEARNER)
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
        counts = BatchCounts.from_metrics(state.get("counts", {}))
        self._start_pipeline(load_learners(self.learner_group, directory / LEARNER), cursor, counts)

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:  # noqa: ARG002
        """Leave restarts to Ray: requests carry all that a restarted actor needs."""
        return []

    def use_reward(self, reward_client: RewardClient) -> int:
        """Score by this client from an update on of which nothing is under way yet; returns its number, from 1."""
        self._reward = RewardReference(ray.put(reward_client))
        return self._pipeline.use_reward(self._reward) + 1

    def scale_actors(self, *, add: int = 0, remove: int = 0) -> Future[ActorCounts]:
        """Let caption actors join or leave as soon as the training loop comes round to it; any thread may ask.

        Those that join are asked for work once they have started. In synchronous mode the run's result stays the same.
        The future raises RunError where none would be left.
        """
        return self._changes.ask(add=add, remove=remove)

    def drop_changes(self) -> None:
        """Cancel the changes that were asked for and not made: the training loop has ended."""
        self._changes.drop()

    @property
    def num_updates_done(self) -> int:
        """Updates behind the current weights."""
        return self._update

    def cleanup(self) -> None:
        """Stop actors and learners."""
        if hasattr(self, "_watchdog"):  # not where the start failed
            self._watchdog.stop()
            self._worker_manager().clear()  # RLlib would first wait, without a limit, for those that hang
        super().cleanup()
        if self._storage is None:
            shutil.rmtree(self._logdir, ignore_errors=True)

    def _setup_logdir(self) -> None:
        """Keep Tune's folder where there is Tune; otherwise RLlib would leave an empty one among the user's results."""
        if self._storage is not None:
            super()._setup_logdir()
            return
        self._logdir = tempfile.mkdtemp(prefix="rlcap-")

    def _start_pipeline(self, result: LearnerResult, cursor: AudioCursor, counts: BatchCounts) -> None:
        training, cluster = self._plan.training, self._plan.cluster
        actors = self._actors()
        ready = first_ready(actors, cluster)
        self._pipeline = RolloutPipeline(
            {actor_id: actors[actor_id] for actor_id in ready},
            cursor,
            self._reward,
            batches_per_update=training.batches_per_update,
            max_staleness=cluster.max_staleness,
            timeout_s=cluster.rollout_timeout_s,
            check_interrupt=self._between_waits,
            first_update=self._update,
            counts=counts,
        )
        self._pipeline.add_actors({each: actor for each, actor in actors.items() if each not in ready})
        self._publish(result)

    def _publish(self, result: LearnerResult) -> dict[str, float]:
        """Hand the weights on to the actors; returns, as metrics, what that took."""
        assert result.weights is not None, "answers come in learner order, and the first learner sends its weights"
        start = time.monotonic()
        self._pipeline.publish(result.policy_version, ray.put(result.weights))
        return {
            "weights/num_bytes": float(result.weights.num_bytes),
            "weights/publish_ms": 1e3 * result.publish_s,
            "weights/put_ms": 1e3 * (time.monotonic() - start),
        }

    def _between_waits(self) -> None:
        self._changes.grant(self._change_actors)
        self.check_interrupt()

    def _change_actors(self, change: ActorChange) -> ActorCounts:
        before = self._actors()
        for actor_id in self._pipeline.remove_actors(change.remove) if change.remove else ():
            ray.kill(self._worker_manager().remove_actor(actor_id))
        if change.add:
            self.env_runner_group.add_workers(change.add)
            joining = {each: actor for each, actor in self._actors().items() if each not in before}
            self._pipeline.add_actors(joining)
        num_present = len(self._pipeline.present)
        return ActorCounts(num_present, len(self._actors()) - num_present)

    @contextmanager
    def _learning_noted(self) -> Iterator[None]:
        self._learning = True
        try:
            yield
        finally:
            self._learning = False

    def _actors(self) -> dict[int, Any]:
        return dict(self._worker_manager().actors())

    def _worker_manager(self) -> Any:  # noqa: ANN401 - RLlib has no types
        # The one place that reads a private member of RLlib: it has no public way to the actor handles.
        return self.env_runner_group._worker_manager

    def _progress(self) -> object:
        return self._update, self._pipeline.num_answers, self._learning

    def _describe(self) -> list[str]:
        """Say who is waited for, and where every process stands."""
        names = {actor._actor_id.hex(): f"caption actor {number}" for number, actor in self._actors().items()}
        waited_for = [f"the learner has been asked for update {self._update + 1}"] if self._learning else []
        return [*waited_for, *self._pipeline.describe(), *standpoints(names)]

    def _new_cursor(self) -> AudioCursor:
        clips_per_request = self._plan.training.clips_per_batch // self._plan.training.batches_per_update
        return AudioCursor(len(self._plan.actor.source), clips_per_request, self._plan.seed)

    def _skipped_since(self, first: int, used: Sequence[CollectedBatch]) -> tuple[CursorBatch, ...]:
        skipped = sorted({*range(first, self._pipeline.next_batch)} - {each.batch.batch_index for each in used})
        cursor = self._new_cursor()
        return tuple(cursor.batch(index) for index in skipped)

    def _cursor_at(self, next_batch: int) -> AudioCursor:
        """Return the stream as it stands before a batch, with nothing in flight."""
        cursor = self._new_cursor()
        cursor.load_state_dict({**cursor.state_dict(), "next_batch": next_batch})
        return cursor

    def _actor_counts(self) -> dict[str, float]:
        return {"actors/present": float(len(self._pipeline.present)), **self._pipeline.counts.metrics()}


def build_algorithm(plan: RunPlan) -> CaptionPPO:
    """Start a run's actors and learners."""
    return CaptionPPO(algorithm_config(plan, CaptionPPO))


def _timings(batches: Sequence[CollectedBatch], *, waited_s: float, wall_s: float) -> dict[str, float]:
    num_captions = sum(batch.info.num_captions for batch in batches)
    loads = [batch.info.load_s for batch in batches if batch.info.load_s]
    return {
        "time/captions_per_s": num_captions / wall_s,
        "time/audio_s_per_s": sum(batch.info.audio_s for batch in batches) / wall_s,
        "time/update_s": wall_s - waited_s,
        "time/wait_for_rollouts_s": waited_s,
        "time/batch_s": sum(batch.info.wall_s for batch in batches) / len(batches),
        "time/audio_wait_s": sum(batch.info.audio_wait_s for batch in batches) / len(batches),
        **({"weights/load_ms": 1e3 * sum(loads) / len(loads)} if loads else {}),
    }
