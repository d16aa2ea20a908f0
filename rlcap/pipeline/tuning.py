"""One PPO run: reward server, actors and learner from the first update, or a checkpoint, to the last."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.env_runner import ActorPlan
from reward_server.group import RewardServer
from rlcap.algorithm.caption_ppo import CAPTIONER, CaptionPPO, build_algorithm
from rlcap.algorithm.prometheus import PrometheusTracker
from rlcap.algorithm.ray_session import without_advice
from rlcap.algorithm.settings import RunPlan
from rlcap.algorithm.spans import SpanLog
from rlcap.algorithm.update_report import UpdateReport
from rlcap.audio.quarantine import QuarantineList
from rlcap.checkpoint import latest_good, newest_update
from rlcap.checkpoint_mirror import CheckpointMirror, newest_good
from rlcap.config.algorithm import AlgorithmKind
from rlcap.config.run import RunConfig
from rlcap.errors import ActorLostError, CheckpointError, DataError, GuardError, RowError
from rlcap.metrics import MetricsWriter
from rlcap.pipeline.checkpointing import Checkpointer
from rlcap.pipeline.interrupt import StopRequested, StopSignal
from rlcap.pipeline.live_reward import LiveReward
from rlcap.pipeline.live_view import Standing, live_view
from rlcap.pipeline.reward_history import last_reward
from rlcap.pipeline.rollout_ledger import LedgerWriter
from rlcap.pipeline.timeline import Timeline
from rlcap.protocols import AudioSource
from rlcap.restarts import Restarts
from rlcap.run_directory import RunDirectory
from rlcap.tables.json_values import read_json_object
from rlcap.tables.rows import Row
from rlcap.whole_file import whole_file

log = logging.getLogger(__name__)

SAMPLES_SCHEMA = pa.schema(
    [
        ("update", pa.int64()),
        ("clip_id", pa.string()),
        ("caption", pa.string()),
        ("reward", pa.float32()),
        ("reward_version", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class TuningJob:
    """What a PPO run is given."""

    name: str
    config: RunConfig
    source: AudioSource
    baseline: Path
    reward: Path
    hear_other_clips: bool = False
    """A control: every caption is scored against another clip of its batch."""


def tune(job: TuningJob, run: RunDirectory) -> Path:
    """Tune the baseline by PPO, writing into `run`; go on from its last good checkpoint. Returns the captioner.

    Needs a Ray session. Ctrl-C ends it between two updates, with a checkpoint.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    with StopSignal() as stop, _server(job, run) as server:
        restarts = Restarts(job.config.cluster.max_restarts)
        while not _train(job, run, server, stop, restarts):
            log.warning("the run goes on from its last checkpoint, with new actors and a new learner")
    last = latest_good(run.checkpoints)
    if last is None:
        raise CheckpointError(f"the run in {run.path} left no good checkpoint: see whether its disk is full")
    return last / CAPTIONER


def _train(job: TuningJob, run: RunDirectory, server: RewardServer, stop: StopSignal, restarts: Restarts) -> bool:
    """Train from the last good checkpoint to the last update; False where a process was lost and a restart may help.

    RLlib cannot replace a learner that died: actors and learner are all made anew.
    """
    mirror = open_mirror(job.config)
    with _algorithm(job, server) as algorithm:
        try:
            _resume(algorithm, run, mirror)
            algorithm.check_interrupt = stop.check
            num_probe_clips = job.config.reward.probe.num_clips
            with LiveReward(
                server, algorithm, run, job.source, num_probe_clips, hear_other_clips=job.hear_other_clips
            ) as reward:
                _Loop(job, run, algorithm, reward, mirror).run(stop)
        except ActorLostError as lost:
            if not restarts.grant(newest_update(run.checkpoints)):
                raise
            log.warning("update %d was lost: %s", algorithm.num_updates_done + 1, lost)
            return False
    return True


def open_mirror(config: RunConfig) -> CheckpointMirror | None:
    """Open the place that checkpoints are copied to, where there is one."""
    return CheckpointMirror.open(config.training.checkpoint_dir) if config.training.checkpoint_dir else None


def read_failures(run: RunDirectory) -> dict[str, int]:
    """Return why captions of a run could not be scored, and the first update in which that happened."""
    if not run.failures.exists():
        return {}
    failures = Row(1, run.failures.name, read_json_object(run.failures))
    try:
        return {reason: failures.whole(reason) for reason in failures.cells}
    except RowError as error:
        raise DataError(f"{run.failures} is damaged, move it away: {error}") from error


class _Loop:
    """The updates of one run, and what is written between them."""

    def __init__(
        self,
        job: TuningJob,
        run: RunDirectory,
        algorithm: CaptionPPO,
        reward: LiveReward,
        mirror: CheckpointMirror | None = None,
    ) -> None:
        self._job = job
        self._training = job.config.training
        self._run = run
        self._algorithm = algorithm
        self._reward = reward
        self._mirror = mirror
        self._quarantine = QuarantineList.load(run.quarantine)
        self._failures = read_failures(run)
        self._saved_sizes = len(self._quarantine), len(self._failures)
        prometheus = [PrometheusTracker(run.path.resolve().name)] if job.config.tracking.prometheus else []
        self._metrics = MetricsWriter(run, job.config.tracking, prometheus)
        self._metrics.truncate_after(algorithm.num_updates_done)
        self._timeline = Timeline(run.timeline) if job.config.profile else None
        self._spans = SpanLog()
        self._samples = _read_samples(run, up_to=algorithm.num_updates_done)
        self._ledger = LedgerWriter(run, len(job.source), algorithm.num_updates_done)
        self._checkpoints = Checkpointer(run, job.config.training, mirror, newest=algorithm.num_updates_done)

    def run(self, stop: StopSignal) -> None:
        """Train to the last update."""
        remaining = range(self._algorithm.num_updates_done, self._training.num_updates)
        try:
            with live_view(f"PPO ({self._job.name})", len(remaining)) as show:
                for _ in remaining:
                    stop.check()
                    self._algorithm.train()
                    report = self._algorithm.last_report
                    metrics = self._record(report)
                    caption = str(self._samples[-1]["caption"]) if self._samples else ""
                    show(Standing(metrics, caption, self._checkpoints.newest))
            self._checkpoints.finish(self._algorithm.num_updates_done, self._snapshot)
        except StopRequested:
            self._checkpoints.finish(self._algorithm.num_updates_done, self._snapshot)
            raise
        except GuardError as guard:
            raise self._stopped_by(guard) from guard
        finally:
            self._checkpoints.close()
            self._metrics.close()

    def _record(self, report: UpdateReport) -> dict[str, float]:
        """Write down what an update has brought; returns its metrics, those of reward and checkpoints included."""
        reward_metrics = self._reward.note_update(report.update, report.batches[0])
        metrics = {**report.metrics, **reward_metrics, **self._checkpoints.metrics()}
        self._metrics.log(report.update, metrics)
        self._checkpoints.note(report.metrics)
        self._ledger.note(report)
        self._quarantine.add(report.quarantined)
        self._note_failures(report.failure_reasons, report.update)
        self._save_lists()
        if report.update % self._training.sample_every_updates == 0 or report.update == 1:
            self._samples += self._sample_rows(report)
        if report.update % self._training.checkpoint_every_updates == 0:
            with self._spans.span("checkpoint"):
                self._checkpoints.begin(report.update, self._snapshot)
        spans = self._spans.take()
        if self._timeline is not None:
            self._timeline.note(report, spans)
        return metrics

    def _stopped_by(self, guard: GuardError) -> GuardError:
        """Set aside what the guard calls spoilt, and add to its message where the run can go on."""
        try:
            rejected = self._checkpoints.set_aside(guard.first_spoilt)
            good = newest_good(self._run.checkpoints, self._mirror)
        except CheckpointError as unreachable:
            spoilt = f"the copies of update {guard.first_spoilt} and later"
            return GuardError(f"{guard}; {unreachable}; remove {spoilt} there before the run goes on")
        aside = f"; {rejected[0]} is set aside" if rejected else ""
        run_dir = Path(self._job.config.run_dir)
        if run_dir.resolve() != self._run.path.resolve():  # a control: what it leaves behind is cleared away
            again = f"rlcap train resume=true run_dir={run_dir} training.controls=false"
            return GuardError(f"the control {self._job.name}: {guard}; do without controls: `{again}`")
        if good is None:
            return GuardError(
                f"{guard}{aside}; there is no good checkpoint before it: start again, for example with {guard.remedy}"
            )
        again = f"rlcap train resume=true run_dir={run_dir} {guard.remedy}"
        return GuardError(f"{guard}{aside}; the last good checkpoint is {good}: go on from there with `{again}`")

    def _note_failures(self, reasons: Iterable[str], update: int) -> None:
        """Say each reason once a run: how many captions were lost by them is among the metrics."""
        new = {reason: update for reason in reasons if reason not in self._failures}
        if not new:
            return
        for reason in new:
            log.warning("captions of update %d could not be scored, and are left out: %s", update, reason)
        self._failures |= new

    def _save_lists(self) -> None:
        """Write what is new in the lists of clips and reasons; what a full disk does not take is tried again."""
        sizes = len(self._quarantine), len(self._failures)
        if sizes == self._saved_sizes:
            return
        try:
            if len(self._quarantine):
                self._quarantine.save(self._run.quarantine)
            if self._failures:
                with whole_file(self._run.failures) as fresh:
                    fresh.write_text(json.dumps(self._failures, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            log.warning("the lists of quarantined clips and of failures cannot be written: %s", error)
        else:
            self._saved_sizes = sizes

    def _snapshot(self) -> Callable[[Path], None]:
        """Bring the other files of the run up to date, then hold the algorithm in memory."""
        self._run.check_lease()
        try:
            self._metrics.flush()
            self._ledger.save(self._algorithm.num_updates_done)
            with whole_file(self._run.samples) as fresh:
                pq.write_table(pa.Table.from_pylist(self._samples, schema=SAMPLES_SCHEMA), fresh)
        except OSError as error:
            raise CheckpointError(f"the files of the run in {self._run.path} cannot be written: {error}") from error
        return self._algorithm.snapshot()

    def _sample_rows(self, report: UpdateReport) -> list[dict[str, object]]:
        scored = report.first_rollouts()
        if scored is None:
            return []
        rollouts, rewards = scored.rollouts, scored.rewards
        first_of_clip = [int((rollouts.clip_index == clip).argmax()) for clip in range(len(rollouts.clip_ids))]
        return [
            {
                "update": report.update,
                "clip_id": rollouts.clip_ids[clip],
                "caption": rollouts.captions[row],
                "reward": float(rewards.scores[row]),
                "reward_version": rewards.reward_version,
            }
            for clip, row in enumerate(first_of_clip[: self._training.num_sample_clips])
        ]


@contextmanager
def _server(job: TuningJob, run: RunDirectory) -> Iterator[RewardServer]:
    """Serve the job's reward model, or the one that was swapped in before the run was stopped."""
    swapped = last_reward(run)
    reward = swapped if swapped is not None and swapped.exists() else job.reward
    with without_advice():
        server = RewardServer.start(reward, job.config.reward, job.config.cluster)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def _algorithm(job: TuningJob, server: RewardServer) -> Iterator[CaptionPPO]:
    """Start a run's actors and learner, and stop them in the end."""
    config = job.config
    actor = actor_plan(config, job.source, job.baseline.resolve())
    client = server.client(hear_other_clips=job.hear_other_clips)
    plan = RunPlan(actor, client, config.algorithm, config.training, config.cluster, config.seed)
    with without_advice():
        algorithm = build_algorithm(plan)
    try:
        yield algorithm
    finally:
        algorithm.stop()


def actor_plan(config: RunConfig, source: AudioSource, baseline: Path) -> ActorPlan:
    """What each actor of a run with these settings is given."""
    return ActorPlan(
        source=source,
        baseline=baseline,
        sampling=config.sampling,
        samples_per_clip=config.training.samples_per_clip,
        num_threads=max(1, int(config.cluster.actor_cpus)),
        with_greedy=config.algorithm.kind is AlgorithmKind.scst,
    )


def _resume(algorithm: CaptionPPO, run: RunDirectory, mirror: CheckpointMirror | None) -> None:
    """Go back to the newest good checkpoint; without any checkpoint the run begins."""
    checkpoint = newest_good(run.checkpoints, mirror)
    if checkpoint is not None:
        algorithm.load_checkpoint(str(checkpoint))
    elif newest_update(run.checkpoints):
        raise CheckpointError(
            f"none of the checkpoints in {run.checkpoints} is whole: move them away to begin at the first update again"
        )


def _read_samples(run: RunDirectory, up_to: int) -> list[dict[str, object]]:
    if not run.samples.exists():
        return []
    table = pq.read_table(run.samples, schema=SAMPLES_SCHEMA, filters=[("update", "<=", up_to)])
    rows: list[dict[str, object]] = table.to_pylist()
    return rows
