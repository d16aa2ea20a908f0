"""The folder of one run: what lies where, who may write into it, and how to find it again."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from rlcap.config.load import save_config
from rlcap.config.run import RunConfig
from rlcap.errors import ConfigError

RUNS = Path("runs")
"""Where runs go that were given no folder, relative to the working directory."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of everything that a run reads and writes."""

    path: Path

    @property
    def config(self) -> Path:
        """Every setting of the run, as YAML."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One row an update."""
        return self.path / "metrics.parquet"

    @property
    def metrics_journal(self) -> Path:
        """Rows that are not in `metrics` yet, one JSON object a line."""
        return self.path / "metrics.journal.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def timeline(self) -> Path:
        """When each process did what, as a Chrome trace."""
        return self.path / "timeline.json"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def ledger(self) -> Path:
        """Which update used which clips: one Parquet file a checkpoint."""
        return self.path / "ledger"

    @property
    def captioners(self) -> Path:
        """One folder a captioner of the comparison."""
        return self.path / "captioners"

    @property
    def baseline(self) -> Path:
        """The captioner that PPO began with."""
        return self.captioners / "baseline"

    @property
    def reward(self) -> Path:
        """The reward model."""
        return self.path / "reward"

    @property
    def reward_models(self) -> Path:
        """One folder a reward model that came in while the run went on, named by its version."""
        return self.path / "reward_models"

    @property
    def reward_history(self) -> Path:
        """Which reward model scored from which update on, as JSON."""
        return self.path / "reward_history.json"

    @property
    def control(self) -> Path:
        """Requests to the run while it goes on, and its answers."""
        return self.path / "control"

    @property
    def samples(self) -> Path:
        """Captions of a few clips, now and then during training."""
        return self.path / "samples.parquet"

    @property
    def heldout(self) -> Path:
        """Captions and verdicts of the held-out clips."""
        return self.path / "heldout.parquet"

    @property
    def quarantine(self) -> Path:
        """Files that could not be used, and why."""
        return self.path / "quarantine.csv"

    @property
    def failures(self) -> Path:
        """Why captions could not be scored, and in which update first, as JSON."""
        return self.path / "failures.json"

    @property
    def summary(self) -> Path:
        """The key figures, as JSON."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The report, as one HTML file."""
        return self.path / "report.html"

    @property
    def has_begun(self) -> bool:
        """Whether PPO has left anything that a new start would spoil."""
        results = (self.metrics, self.metrics_journal, self.reward, self.heldout, self.summary)
        folders = (*self.checkpoints.glob("*"), *self.captioners.glob("*"))
        return any(path.exists() for path in results) or any(path != self.baseline for path in folders)


def choose_run_directory(config: RunConfig) -> Path:
    """Return `run_dir`, or a new name below `runs` where it is empty; create nothing."""
    if config.run_dir:
        return Path(config.run_dir)
    stem = f"{config.experiment}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    path, count = RUNS / stem, 2
    while path.exists():
        path, count = RUNS / f"{stem}-{count}", count + 1
    return path


def create_run_directory(config: RunConfig) -> RunDirectory:
    """Create the folder of a new run, write its settings, and point `latest` beside it at it.

    The folder of a run that ended before its first update is used again.

    Raises:
        ConfigError: the folder holds an earlier run, or files that are not of a run.
    """
    run = RunDirectory(choose_run_directory(config))
    path = run.path
    if path.exists():
        _check_free(run)
        _clear(run)
    path.mkdir(parents=True, exist_ok=True)
    save_config(config, run.config)
    _point_latest_at(path)
    return run


def reopen_run_directory(config: RunConfig) -> RunDirectory:
    """Write the settings that a run goes on with into its folder: the next resume and the report read them there."""
    run = RunDirectory(Path(config.run_dir))
    save_config(replace(config, resume=False), run.config)
    return run


def find_run_directory(run_dir: str | Path = "") -> RunDirectory:
    """Open the folder of an earlier run; empty: the latest one below `runs`.

    Raises:
        ConfigError: there is no such folder, or it is not that of a run.
    """
    path = Path(run_dir) if run_dir else RUNS / "latest"
    if not path.exists():
        earlier = sorted(folder.parent.name for folder in RUNS.glob("*/config.yaml") if not folder.parent.is_symlink())
        known = f"runs here: {', '.join(earlier)}" if earlier else f"there are no runs below {RUNS.resolve()}"
        raise ConfigError(f"there is no run at {path}; {known}")
    run = RunDirectory(path.resolve() if path.is_symlink() else path)
    if not run.config.is_file():
        raise ConfigError(f"{path} is not the folder of a run: it holds no {run.config.name}")
    return run


def _check_free(run: RunDirectory) -> None:
    """Refuse a folder that is in use."""
    path = run.path
    if not path.is_dir():
        raise ConfigError(f"run_dir must be a folder, but {path} is a file")
    if run.config.is_file() and not run.has_begun:
        return
    if run.config.is_file():
        raise ConfigError(f"{path} holds an earlier run: add resume=true to continue it, or give another run_dir")
    found = sorted(entry.name for entry in path.iterdir())
    if found:
        raise ConfigError(f"{path} holds files that are not of a run, such as {found[0]}: give an empty run_dir")


def _clear(run: RunDirectory) -> None:
    """Remove what a start that came to nothing has left: it is not of the new run."""
    for file in (run.quarantine, run.failures, run.samples, run.report, run.reward_history, run.timeline):
        file.unlink(missing_ok=True)
    for folder in (run.tensorboard, run.baseline, run.control, run.reward_models, run.ledger):
        shutil.rmtree(folder, ignore_errors=True)


def _point_latest_at(path: Path) -> None:
    """Swap the symlink in one step, so that a reader always finds a run behind it."""
    latest = path.parent / "latest"
    if latest.exists() and not latest.is_symlink():
        return  # someone's own folder of that name
    fresh = path.parent / f".latest-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(path.name, target_is_directory=True)
    fresh.replace(latest)
