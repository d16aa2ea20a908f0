"""Metrics of a run: one row an update in Parquet, and the same numbers in the trackers that were asked for."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rlcap.config.training import TrackingConfig
from rlcap.errors import ConfigError, DataError
from rlcap.run_directory import RunDirectory
from rlcap.whole_file import whole_file

log = logging.getLogger(__name__)

_MIN_ROWS_PER_REWRITE = 100
_REWRITE_SHARE = 0.1


class Tracker(Protocol):
    """A place besides Parquet that metrics go to."""

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one update."""
        ...

    def close(self) -> None:
        """Hand over what is still buffered."""
        ...


class MetricsWriter:
    """Appends each row to a journal at once, and folds the journal into `metrics.parquet` now and then.

    A kill loses at most the row that was being written. The file is rewritten whenever the journal has grown by a
    tenth of it, so that the cost of a row does not grow with the run. While the disk is full, rows wait in memory.
    """

    def __init__(self, run: RunDirectory, tracking: TrackingConfig, also: Sequence[Tracker] = ()) -> None:
        """Open the run's metrics and trackers; those of `also` are told as well, and closed with the writer."""
        self._run = run
        self._tracking = tracking
        self._also = tuple(also)
        table = read_metrics(run)
        self._last_update = _last_update(table)
        self._num_rows = table.num_rows
        self._pending: list[dict[str, float]] = []
        self._num_in_journal = 0
        self._journal_bytes = 0
        self._is_waiting = False
        self._fold(table)
        self._trackers = [*_open_trackers(run, tracking), *self._also]

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one update; updates must increase.

        Raises:
            ValueError: `update` is not above the last one.
            LeaseLostError: another process has taken the run over.
        """
        if update <= self._last_update:
            raise ValueError(f"updates must increase: got {update} after {self._last_update}")
        self._run.check_lease()
        row = {"update": update} | {name: float(value) for name, value in sorted(metrics.items())}
        self._pending.append(row)
        self._last_update = update
        self._tell_trackers(update, metrics)
        with self._waiting_for_room():
            self._append_to_journal()
            if len(self._pending) >= max(_MIN_ROWS_PER_REWRITE, _REWRITE_SHARE * self._num_rows):
                self.flush()

    def flush(self) -> None:
        """Bring `metrics.parquet` up to date.

        Raises:
            OSError: the disk is full, or cannot be written; no row is lost by it.
        """
        if self._pending:
            self._fold(_joined(_read_parquet(self._run.metrics), self._pending))

    def truncate_after(self, update: int) -> None:
        """Forget every update after this one: the run goes on from there and logs them again."""
        table = read_metrics(self._run)
        self._fold(table.filter(pc.less_equal(table["update"], update)))
        self._last_update = min(self._last_update, update)
        self._close_trackers()
        self._trackers = [*_open_trackers(self._run, self._tracking, first_update=update + 1), *self._also]

    def close(self) -> None:
        """Write everything out.

        Raises:
            LeaseLostError: another process has taken the run over: its metrics are left as they are.
        """
        try:
            with self._waiting_for_room():
                self.flush()
        finally:
            self._close_trackers()
            for tracker in self._also:
                tracker.close()

    def _append_to_journal(self) -> None:
        text = "".join(json.dumps(row) + "\n" for row in self._pending[self._num_in_journal :]).encode()
        with self._run.metrics_journal.open("ab") as journal:
            journal.truncate(self._journal_bytes)  # a full disk may have left half a row
            journal.write(text)
        self._num_in_journal = len(self._pending)
        self._journal_bytes += len(text)

    def _tell_trackers(self, update: int, metrics: Mapping[str, float]) -> None:
        for tracker in list(self._trackers):
            try:
                tracker.log(update, metrics)
            except OSError as error:
                log.warning("%s cannot be written, and is left alone: %s", type(tracker).__name__.strip("_"), error)
                self._trackers.remove(tracker)

    @contextmanager
    def _waiting_for_room(self) -> Iterator[None]:
        """Keep rows in memory while they cannot be written: a full disk must not end a run."""
        try:
            yield
        except OSError as error:
            if not self._is_waiting:
                log.warning("metrics cannot be written, and wait in memory until they can: %s", error)
            self._is_waiting = True
        else:
            self._is_waiting = False

    def _close_trackers(self) -> None:
        """Close those that were opened here."""
        for tracker in self._trackers:
            if tracker not in self._also:
                tracker.close()

    def _fold(self, table: pa.Table) -> None:
        """Make `table` the content of `metrics.parquet`, and empty the journal; no row, no file."""
        if not table.num_rows and not self._run.metrics.exists() and not self._run.metrics_journal.exists():
            return
        self._run.check_lease()
        names = ["update", *sorted(name for name in table.column_names if name != "update")]
        with whole_file(self._run.metrics) as fresh:
            pq.write_table(table.select(names), fresh)
        self._run.metrics_journal.unlink(missing_ok=True)
        self._num_rows = table.num_rows
        self._pending = []
        self._num_in_journal = self._journal_bytes = 0


def read_metrics(run: RunDirectory) -> pa.Table:
    """Return every row on disk, those of a killed run included: column `update` (int64) and a float64 column a metric.

    Raises:
        DataError: `metrics.parquet` cannot be read.
    """
    table = _read_parquet(run.metrics)
    if not run.metrics_journal.is_file():
        return table
    # A kill between the rewrite and the removal of the journal leaves rows in both.
    last = _last_update(table)
    return _joined(table, [row for row in _read_journal(run.metrics_journal) if row["update"] > last])


def _read_parquet(path: Path) -> pa.Table:
    if not path.is_file():
        return pa.table({"update": pa.array([], pa.int64())})
    try:
        # Opened once: by its name, the reader would open it twice, and find another file after a rewrite.
        with path.open("rb") as file:
            return pq.read_table(file)
    except pa.ArrowException as error:
        raise DataError(f"{path} is no readable Parquet file ({error}); move it away to start a new one") from error


def _read_journal(path: Path) -> list[dict[str, float]]:
    """Return the whole lines; a kill can only tear the last one."""
    text = path.read_text(encoding="utf-8")
    whole, _, _ = text.rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def _joined(table: pa.Table, rows: list[dict[str, float]]) -> pa.Table:
    """Append rows; a metric that an update lacks is null there."""
    if not rows:
        return table
    names = dict.fromkeys(name for row in rows for name in row)
    types = {name: pa.int64() if name == "update" else pa.float64() for name in names}
    fresh = pa.table({name: pa.array([row.get(name) for row in rows], types[name]) for name in names})
    return pa.concat_tables([table, fresh], promote_options="default").combine_chunks()


def _last_update(table: pa.Table) -> int:
    """Return the last update, or -1 where there is none."""
    return int(table["update"][-1].as_py()) if table.num_rows else -1


def _open_trackers(run: RunDirectory, tracking: TrackingConfig, first_update: int = 0) -> list[Tracker]:
    trackers: list[Tracker] = []
    if tracking.tensorboard:
        trackers.append(_TensorBoard(run, first_update))
    if tracking.wandb:
        trackers.append(_WeightsAndBiases(run, tracking.project))
    if tracking.mlflow:
        trackers.append(_MLflow(run, tracking.project))
    return trackers


def require_trackers(tracking: TrackingConfig) -> None:
    """Refuse trackers whose packages are missing.

    Raises:
        ConfigError: names the package.
    """
    for name in ("wandb", "mlflow"):
        if getattr(tracking, name):
            _import_tracker(name)


def _import_tracker(name: str) -> Any:  # noqa: ANN401
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"tracking.{name}=true needs the {name} package: pip install 'rlcap[{name}]'") from error


class _TensorBoard:
    """Event files in the run directory; those of forgotten updates are hidden by the purge step."""

    def __init__(self, run: RunDirectory, first_update: int) -> None:
        # Slow to import, and unneeded where the tracker is off.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.tensorboard), purge_step=first_update or None)

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, update)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """One run there for each run directory; a resumed run continues it."""

    def __init__(self, run: RunDirectory, project: str) -> None:
        name = run.path.resolve().name
        wandb = _import_tracker("wandb")
        self._run = wandb.init(project=project, name=name, id=name, dir=str(run.path), resume="allow")

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=update)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """One run there for each start of the run."""

    def __init__(self, run: RunDirectory, project: str) -> None:
        self._mlflow = _import_tracker("mlflow")
        self._mlflow.set_experiment(project)
        self._run_id = self._mlflow.start_run(run_name=run.path.resolve().name).info.run_id

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(metrics), step=update, run_id=self._run_id)

    def close(self) -> None:
        self._mlflow.end_run()
