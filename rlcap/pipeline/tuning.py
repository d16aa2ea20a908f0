"""One PPO run: reward server, actors and learner from the first update, or a checkpoint, to the last."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.env_runner import ActorPlan
from reward_server.group import RewardServer
from rlcap.algorithm.caption_ppo import CAPTIONER, CaptionPPO, UpdateReport, build_algorithm
from rlcap.algorithm.ray_session import without_advice
from rlcap.algorithm.settings import RunPlan
from rlcap.audio.quarantine import QuarantineList
from rlcap.checkpoint import latest_good, prune, set_aside, update_of, write_checkpoint
from rlcap.config.algorithm import AlgorithmKind, PPOConfig
from rlcap.config.precision import Precision
from rlcap.config.run import RunConfig
from rlcap.errors import CheckpointError, GuardError
from rlcap.metrics import MetricsWriter
from rlcap.pipeline.interrupt import StopRequested, StopSignal
from rlcap.pipeline.live_reward import LiveReward
from rlcap.pipeline.progress import progress_bar
from rlcap.pipeline.reward_history import last_reward
from rlcap.protocols import AudioSource
from rlcap.run_directory import RunDirectory

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
    with StopSignal() as stop, _server(job, run) as server, _algorithm(job, server) as algorithm:
        _resume(algorithm, run)
        algorithm.check_interrupt = stop.check
        num_probe_clips = job.config.reward.probe.num_clips
        with LiveReward(
            server, algorithm, run, job.source, num_probe_clips, hear_other_clips=job.hear_other_clips
        ) as reward:
            _Loop(job, run, algorithm, reward).run(stop)
    last = latest_good(run.checkpoints)
    if last is None:
        raise CheckpointError(f"the run in {run.path} left no good checkpoint: see whether its disk is full")
    return last / CAPTIONER


def read_failures(run: RunDirectory) -> dict[str, int]:
    """Return why captions of a run could not be scored, and the first update in which that happened."""
    if not run.failures.exists():
        return {}
    failures: dict[str, int] = json.loads(run.failures.read_text(encoding="utf-8"))
    return failures


class _Loop:
    """The updates of one run, and what is written between them."""

    def __init__(self, job: TuningJob, run: RunDirectory, algorithm: CaptionPPO, reward: LiveReward) -> None:
        self._job = job
        self._training = job.config.training
        self._run = run
        self._algorithm = algorithm
        self._reward = reward
        self._quarantine = QuarantineList.load(run.quarantine)
        self._failures = read_failures(run)
        self._metrics = MetricsWriter(run, job.config.tracking)
        self._metrics.truncate_after(algorithm.num_updates_done)
        self._samples = _read_samples(run, up_to=algorithm.num_updates_done)

    def run(self, stop: StopSignal) -> None:
        """Train to the last update."""
        remaining = range(self._algorithm.num_updates_done, self._training.num_updates)
        try:
            with progress_bar(f"PPO ({self._job.name})", len(remaining)) as advance:
                for _ in remaining:
                    stop.check()
                    self._algorithm.train()
                    report = self._algorithm.last_report
                    self._record(report)
                    advance(_note(report))
        except StopRequested:
            self._checkpoint()
            raise
        except GuardError as guard:
            raise self._stopped_by(guard) from guard
        finally:
            self._metrics.close()

    def _record(self, report: UpdateReport) -> None:
        reward_metrics = self._reward.note_update(report.update, report.batches[0])
        self._metrics.log(report.update, {**report.metrics, **reward_metrics})
        if self._quarantine.add(report.quarantined):
            self._quarantine.save(self._run.quarantine)
        self._note_failures(report.failure_reasons, report.update)
        if report.update % self._training.sample_every_updates == 0 or report.update == 1:
            self._samples += self._sample_rows(report)
        last = report.update == self._training.num_updates
        if last or report.update % self._training.checkpoint_every_updates == 0:
            self._checkpoint()

    def _stopped_by(self, guard: GuardError) -> GuardError:
        """Set aside what the guard calls spoilt, and add to its message where the run can go on."""
        rejected = set_aside(self._run.checkpoints, guard.first_spoilt)
        aside = f"; {rejected[0]} is set aside" if rejected else ""
        run_dir = Path(self._job.config.run_dir)
        if run_dir.resolve() != self._run.path.resolve():  # a control: what it leaves behind is cleared away
            again = f"rlcap train resume=true run_dir={run_dir} training.controls=false"
            return GuardError(f"the control {self._job.name}: {guard}; do without controls: `{again}`")
        good = latest_good(self._run.checkpoints)
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
        self._run.failures.write_text(json.dumps(self._failures, indent=2) + "\n", encoding="utf-8")

    def _checkpoint(self) -> None:
        update = self._algorithm.num_updates_done
        newest = latest_good(self._run.checkpoints)
        if update == 0 or (newest is not None and update_of(newest) == update):
            return
        self._metrics.flush()
        pq.write_table(pa.Table.from_pylist(self._samples, schema=SAMPLES_SCHEMA), self._run.samples)
        write_checkpoint(self._run.checkpoints, update, lambda path: self._algorithm.save_checkpoint(str(path)))
        prune(self._run.checkpoints, self._training.keep_last)

    def _sample_rows(self, report: UpdateReport) -> list[dict[str, object]]:
        scored = report.first_rollouts()
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
    actor = ActorPlan(
        source=job.source,
        baseline=job.baseline.resolve(),
        sampling=config.sampling,
        samples_per_clip=config.training.samples_per_clip,
        num_threads=max(1, int(config.cluster.actor_cpus)),
        with_greedy=config.algorithm.kind is AlgorithmKind.scst,
    )
    client = server.client(hear_other_clips=job.hear_other_clips)
    plan = RunPlan(actor, client, learning_settings(config), config.training, config.cluster, config.seed)
    with without_advice():
        algorithm = build_algorithm(plan)
    try:
        yield algorithm
    finally:
        algorithm.stop()


def learning_settings(config: RunConfig) -> PPOConfig:
    """The learner's settings: log-probs of a sampler in bfloat16 are off by more than a rounding error."""
    recompute = config.algorithm.recompute_log_probs or config.sampling.precision is Precision.bfloat16
    return replace(config.algorithm, recompute_log_probs=recompute)


def _resume(algorithm: CaptionPPO, run: RunDirectory) -> None:
    checkpoint = latest_good(run.checkpoints)
    if checkpoint is not None:
        algorithm.load_checkpoint(str(checkpoint))


def _read_samples(run: RunDirectory, up_to: int) -> list[dict[str, object]]:
    if not run.samples.exists():
        return []
    table = pq.read_table(run.samples, schema=SAMPLES_SCHEMA, filters=[("update", "<=", up_to)])
    rows: list[dict[str, object]] = table.to_pylist()
    return rows


def _note(report: UpdateReport) -> str:
    metrics = report.metrics
    return (
        f"reward {metrics.get('rollout/reward_mean', float('nan')):+.2f}  "
        f"KL {metrics.get('rollout/kl_to_reference', float('nan')):.1f}  "
        f"{metrics['time/captions_per_s']:.0f} captions/s"
    )
