"""What a run has left so far, as far as it can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rlcap.audio.quarantine import QuarantineList
from rlcap.errors import DataError
from rlcap.metrics import read_metrics
from rlcap.run_directory import RunDirectory
from rlcap.tables.json_values import read_json_object, read_json_rows
from rlcap.tables.rows import Row, sift

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class RunContents:
    """The files of a run; a part that is not there is empty."""

    name: str
    settings: str
    """YAML text."""
    summary: Mapping[str, Any]
    metrics: pa.Table
    samples: list[dict[str, Any]]
    heldout: list[dict[str, Any]]
    quarantine: list[dict[str, str]]
    reward_history: list[dict[str, Any]]
    """Version, first update and folder of each reward model that scored."""
    unreadable: list[str] = field(default_factory=list)
    """A sentence for each file that is there but cannot be read."""


def read_contents(run: RunDirectory) -> RunContents:
    """Read whatever is there: an interrupted run has a report too."""
    unreadable: list[str] = []

    def read(path: Path, reader: Callable[[Path], Content], missing: Content) -> Content:
        if not path.is_file():
            return missing
        try:
            return reader(path)
        except (OSError, ValueError, DataError, pa.ArrowException) as error:
            unreadable.append(f"{path.name} cannot be read: {error}")
            return missing

    return RunContents(
        name=run.path.resolve().name,
        settings=read(run.config, _read_text, ""),
        summary=read(run.summary, _read_summary, {}),
        metrics=_read_metrics(run, unreadable),
        samples=read(run.samples, _read_rows, []),
        heldout=read(run.heldout, _read_rows, []),
        quarantine=read(run.quarantine, _read_quarantine, []),
        reward_history=read(run.reward_history, _read_history, []),
        unreadable=unreadable,
    )


def _read_metrics(run: RunDirectory, unreadable: list[str]) -> pa.Table:
    try:
        return read_metrics(run)
    except DataError as error:
        unreadable.append(str(error))
        return pa.table({"update": pa.array([], pa.int64())})


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _read_summary(path: Path) -> Mapping[str, Any]:
    return read_json_object(path)


def _read_history(path: Path) -> list[dict[str, Any]]:
    sifted = sift(read_json_rows(path), _history_entry, path.name)
    for bad in sifted.quarantined:
        raise DataError(f"{bad.path}: {bad.reason}")
    return sifted.values


def _history_entry(row: Row) -> dict[str, Any]:
    return {"version": row.text("version"), "from_update": row.whole("from_update"), "path": row.text("path")}


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def _read_quarantine(path: Path) -> list[dict[str, str]]:
    return [{"path": bad.path, "reason": bad.reason} for bad in QuarantineList.load(path)]
