"""The whole job: stages, PPO, controls, evaluation, report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rlcap.algorithm.ray_session import cluster_may_be_lost, object_store_room, ray_session
from rlcap.audio.quarantine import QuarantineList
from rlcap.captioners.copying import copy_captioner
from rlcap.config.data import SourceKind, Split
from rlcap.config.reward import HeadKind
from rlcap.config.run import RunConfig
from rlcap.config.training import TrackingConfig
from rlcap.metrics import read_metrics
from rlcap.pipeline.clips import open_audio
from rlcap.pipeline.comparison import BASELINE, SUPERVISED, TUNED, compare, write_heldout
from rlcap.pipeline.figures_table import figures_table
from rlcap.pipeline.preflight import check_before_stages
from rlcap.pipeline.progress import CONSOLE, announce
from rlcap.pipeline.reward_fitting import METRICS_FILE
from rlcap.pipeline.stages import Stages
from rlcap.pipeline.tuning import TuningJob, read_failures, tune
from rlcap.report.build import build_report
from rlcap.run_directory import RunDirectory, drive_run
from rlcap.tables.json_values import read_number
from rlcap.whole_file import whole_file, whole_folder

TEXT_ONLY, OTHER_CLIPS = "text_only", "shuffled_audio"


def run(config: RunConfig) -> Path:
    """Run every stage, or take it from the cache; PPO begins, or goes on where `config.run_dir` stopped.

    Raises:
        RlcapError: something would make the run fail, or another process drives it; where the first shows beforehand,
            no run directory is made.
    """
    stages = Stages(config)
    check_before_stages(config, stages)
    with drive_run(config) as run_directory:
        announce(f"run directory: {run_directory.path}")
        job = _MainJob(config, run_directory, stages)
        job.run()
        run_directory.check_lease()
        report = build_report(run_directory.path)
    job.print_table()
    announce(f"report: {report}")
    return run_directory.path


class _MainJob:
    """The state of one job."""

    def __init__(self, config: RunConfig, run: RunDirectory, stages: Stages) -> None:
        self._config = config
        self._run = run
        self._stages = stages
        self._wall_s: dict[str, float] = {}
        self._summary: dict[str, object] = {}

    def run(self) -> None:
        """Run all of it and write the summary."""
        reward = self._reward()
        captioners = {BASELINE: self._baseline()}
        if self._config.training.supervised:
            captioners[SUPERVISED] = self._stages.supervised.path
        deaf_reward = self._stages.reward(HeadKind.text_only).path if self._config.training.controls else None
        self._stages.listener.forget()
        cluster, num_shards = self._config.cluster, self._config.reward.num_shards
        store_bytes = object_store_room(captioners[BASELINE], cluster)
        with ray_session(cluster, num_shards, object_store_bytes=store_bytes), cluster_may_be_lost():
            with self._timed("ppo"):
                captioners[TUNED] = tune(self._tuning_job("main", captioners[BASELINE], reward), self._run)
            if deaf_reward:
                captioners[TEXT_ONLY] = self._control(TEXT_ONLY, deaf_reward)
                captioners[OTHER_CLIPS] = self._control(OTHER_CLIPS, reward, hear_other_clips=True)
        with self._timed("evaluation"):
            self._evaluate(self._keep(captioners, reward), reward)

    def print_table(self) -> None:
        """Show the key figures on the terminal."""
        CONSOLE.print(figures_table(self._summary))

    def _baseline(self) -> Path:
        """The run's own copy of the baseline: one that is resumed goes on with it, whatever became of the cache."""
        kept = self._run.baseline
        if not kept.exists():
            with whole_folder(kept) as aside:
                shutil.copytree(self._stages.baseline.path, aside, dirs_exist_ok=True)
                self._run.check_lease()
        return kept

    def _reward(self) -> Path:
        if self._config.reward.checkpoint:
            return self._stages.given_reward.path
        return self._stages.reward(self._config.reward.head.kind).path

    def _tuning_job(self, name: str, baseline: Path, reward: Path) -> TuningJob:
        source = open_audio(self._config.data, self._stages.cache)
        return TuningJob(name, self._config, source, baseline, reward)

    def _control(self, name: str, reward: Path, *, hear_other_clips: bool = False) -> Path:
        """Run PPO again with a reward that is deaf, or hears the wrong clip; cached, since nobody tunes it further."""
        training = replace(self._config.training, checkpoint_dir="")
        tracking = TrackingConfig(tensorboard=False)
        config = replace(self._config, tracking=tracking, training=training, profile=False)
        baseline = self._stages.baseline
        job = replace(self._tuning_job(name, baseline.path, reward), config=config, hear_other_clips=hear_other_clips)
        facts = {
            "baseline": baseline.key,
            "reward": reward.name,
            "hear_other_clips": hear_other_clips,
            "sections": [config.algorithm, config.sampling, config.training, config.data],
            "max_staleness": config.cluster.max_staleness,
            "seed": config.seed,
        }

        def build(path: Path) -> None:
            captioner = tune(job, RunDirectory(path / "run"))
            copy_captioner(captioner, path / "captioner", baseline.path)

        result = self._stages.cache.get(f"control-{name}", facts, build)
        self._wall_s[f"control {name}"] = result.wall_s
        return result.path / "captioner"

    def _keep(self, captioners: dict[str, Path], reward: Path) -> dict[str, Path]:
        """Copy all models into the run directory, which then needs no cache any more."""
        self._run.check_lease()
        kept = {name: self._run.captioners / name for name in captioners}
        for name, path in captioners.items():
            if path != kept[name]:
                copy_captioner(path, kept[name], kept[BASELINE])
        shutil.copytree(reward, self._run.reward, dirs_exist_ok=True)
        return kept

    def _evaluate(self, captioners: dict[str, Path], reward: Path) -> None:
        config = self._config
        clips = self._stages.clips(Split.heldout)
        comparison = compare(captioners, clips, config.sampling, config.evaluation, seed=config.seed)
        self._run.check_lease()
        write_heldout(comparison, self._run.heldout)
        quarantine = QuarantineList.load(self._run.quarantine)
        quarantine.add([*clips.quarantined, *self._stages.listener.quarantined, *comparison.quarantined])
        quarantine.save(self._run.quarantine)
        self._summary = {
            "experiment": config.experiment,
            "synthetic": config.data.kind is SourceKind.soundscapes,
            "seed": config.seed,
            **comparison.figures,
            "reward_pair_accuracy": _pair_accuracy(reward),
            "captions_per_s": _captions_per_s(self._run),
            "quarantined": len(quarantine),
            "failed_scores": _num_failed(self._run),
            "failures": list(read_failures(self._run)),
        }
        self._write_summary()

    def _write_summary(self) -> None:
        stages = {name: result.wall_s for name, result in self._stages.results.items()}
        self._summary["wall_s"] = {**stages, **self._wall_s}
        with whole_file(self._run.summary) as fresh:
            fresh.write_text(json.dumps(self._summary, indent=2) + "\n", encoding="utf-8")

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._wall_s[name] = time.monotonic() - start
        if self._summary:
            self._write_summary()


def _pair_accuracy(reward: Path) -> float | None:
    """Accuracy on held-out pairs, where this reward model was fitted here."""
    metrics = reward / METRICS_FILE
    if not metrics.exists():
        return None
    return read_number(metrics, "heldout_accuracy")


def _num_failed(run: RunDirectory) -> int:
    return int(sum(read_metrics(run)["rollout/failed"].to_pylist()))


def _captions_per_s(run: RunDirectory) -> float:
    """Median over the updates: the first ones include warming up."""
    rates = sorted(read_metrics(run)["time/captions_per_s"].to_pylist())
    rate: float = rates[len(rates) // 2]
    return rate
