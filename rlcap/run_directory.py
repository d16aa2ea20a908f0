"""The folder of one run: what lies where, who may write into it, and how to find it again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from rlcap.config.load import save_config
from rlcap.config.run import RunConfig
from rlcap.errors import ConfigError
from rlcap.leases import LEASE_S, RUN_DRIVER, RUN_LEASE, RunLease, run_lease
from rlcap.whole_file import name_aside, remove_partials

log = logging.getLogger(__name__)

RUNS = Path("runs")
"""Where runs go that were given no folder, relative to the working directory."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of everything that a run reads and writes."""

    path: Path
    lease: RunLease | None = field(default=None, compare=False, repr=False)
    """Held by the process that drives the run; whoever only reads has none."""

    def check_lease(self) -> None:
        """Look, before writing, whether the run is still this process's, where it has been taken.

        Raises:
            LeaseLostError: another process has taken it over.
        """
        if self.lease is not None:
            self.lease.check()

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
        folders = (*self.checkpoints.glob("[!.]*"), *self.captioners.glob("[!.]*"))
        return any(path.exists() for path in results) or any(path != self.baseline for path in folders)


def claim_run_directory(config: RunConfig) -> Path:
    """Return `run_dir`, or a new folder below `runs` where it is empty, which nobody else is given.

    Raises:
        ConfigError: `run_dir` holds an earlier run, or files that are not of a run.
    """
    if config.run_dir:
        path = Path(config.run_dir)
        _check_free(RunDirectory(path))
        path.mkdir(parents=True, exist_ok=True)
        return path
    RUNS.mkdir(parents=True, exist_ok=True)
    stem = f"{config.experiment}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    path, count = RUNS / stem, 2
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            path, count = RUNS / f"{stem}-{count}", count + 1
        else:
            return path


@contextmanager
def drive_run(config: RunConfig) -> Iterator[RunDirectory]:
    """Open the folder of a run, new or resumed, which no other process writes into until the block ends.

    `config.run_dir` is filled in.

    Raises:
        ConfigError: the folder holds an earlier run that is not resumed, or files that are not of a run.
        RunError: another process drives the run, or the folder cannot be written.
    """
    config.run_dir = config.run_dir if config.resume else str(claim_run_directory(config))
    with run_lease(Path(config.run_dir)) as lease:
        run = reopen_run_directory(config, lease) if config.resume else create_run_directory(config, lease)
        _remove_leftovers(run)
        yield run


def create_run_directory(config: RunConfig, lease: RunLease | None = None) -> RunDirectory:
    """Write the settings of a new run into its folder, and point `latest` beside it at it.

    The folder of a run that ended before its first update is used again.

    Raises:
        ConfigError: the folder holds an earlier run, or files that are not of a run.
    """
    run = RunDirectory(Path(config.run_dir) if lease else claim_run_directory(config), lease)
    _check_free(run)
    _clear(run)
    save_config(config, run.config)
    _point_latest_at(run.path)
    return run


def reopen_run_directory(config: RunConfig, lease: RunLease | None = None) -> RunDirectory:
    """Write the settings that a run goes on with into its folder: the next resume and the report read them there."""
    run = RunDirectory(Path(config.run_dir), lease)
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
    if not path.exists():
        return
    if not path.is_dir():
        raise ConfigError(f"run_dir must be a folder, but {path} is a file")
    if run.config.is_file() and not run.has_begun:
        return
    if run.config.is_file():
        raise ConfigError(f"{path} holds an earlier run: add resume=true to continue it, or give another run_dir")
    found = sorted(entry.name for entry in path.iterdir() if entry.name not in (RUN_LEASE, RUN_DRIVER))
    if found:
        raise ConfigError(f"{path} holds files that are not of a run, such as {found[0]}: give an empty run_dir")


def _clear(run: RunDirectory) -> None:
    """Remove what a start that came to nothing has left: it is not of the new run."""
    for file in (run.quarantine, run.failures, run.samples, run.report, run.reward_history, run.timeline):
        file.unlink(missing_ok=True)
    for folder in (run.tensorboard, run.baseline, run.control, run.reward_models, run.ledger):
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(run: RunDirectory) -> None:
    """Remove what a driver left half written that was killed; what others are writing now is newer than our lease."""
    begun_at = (run.path / RUN_LEASE).stat().st_mtime - LEASE_S
    for folder in (run.path, run.captioners, run.ledger, run.reward_models):
        remove_partials(folder, older_than=begun_at)


def _point_latest_at(path: Path) -> None:
    """Swap the symlink in one step, so that a reader always finds a run behind it."""
    latest = path.parent / "latest"
    if latest.exists() and not latest.is_symlink():
        return  # someone's own folder of that name
    fresh = name_aside(latest)
    try:
        fresh.symlink_to(path.name, target_is_directory=True)
        fresh.replace(latest)
    except OSError as error:  # some file systems know no links
        log.warning("%s cannot point at this run: name it by run_dir=%s (%s)", latest, path, error)
