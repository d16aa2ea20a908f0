"""Which update used which clips: the proof that nothing was used twice, and nothing lost from a finished epoch.

The learner refuses a batch that it has seen (`learner/ledger.py`); this is the record of what it accepted, in its own
words, beside what the driver asked for. There is one file a checkpoint: a resumed run drops what it will do again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.audio_cursor import CursorBatch
from learner.ppo_learner import UsedBatch
from rlcap.algorithm.update_report import UpdateReport
from rlcap.errors import DataError
from rlcap.run_directory import RunDirectory
from rlcap.whole_file import whole_file

SCHEMA = pa.schema(
    [
        ("update", pa.int64()),
        ("batch_index", pa.int64()),
        ("positions", pa.list_(pa.int64())),
        ("num_clips", pa.int64()),
        ("clip_ids", pa.list_(pa.string())),
        ("quarantined", pa.list_(pa.string())),
        ("num_captions", pa.int64()),
        ("num_unscored", pa.int64()),
    ]
)
"""One row a batch of the stream; `update` is null where none of its clips could be used."""

_NAME = re.compile(r"update-(\d{6,})\.parquet")


class LedgerWriter:
    """Notes updates, and writes them with each checkpoint."""

    def __init__(self, run: RunDirectory, num_clips: int, num_updates_done: int) -> None:
        self._run = run
        self._folder = run.ledger
        self._num_clips = num_clips
        self._rows: list[dict[str, object]] = []
        self._drop_after(num_updates_done)

    def note(self, report: UpdateReport) -> None:
        """Note what an update used, and what was skipped on the way to it."""
        for batch in report.skipped:
            self._rows.append(self._row(None, batch, UsedBatch(batch.batch_index, (), 0, 0), ()))
        for asked, used in zip(report.batches, report.used, strict=True):
            paths = [item.path for item in asked.info.quarantined]
            self._rows.append(self._row(report.update, asked.batch, used, paths))

    def save(self, update: int) -> None:
        """Write what was noted since the last time, in one step."""
        if not self._rows:
            return
        self._run.check_lease()
        self._folder.mkdir(exist_ok=True)
        with whole_file(self._folder / f"update-{update:06d}.parquet") as fresh:
            pq.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA), fresh)
        self._rows = []

    def _row(
        self, update: int | None, batch: CursorBatch, used: UsedBatch, quarantined: Sequence[str]
    ) -> dict[str, object]:
        return {
            "update": update,
            "batch_index": used.batch_index,
            "positions": batch.positions,
            "num_clips": self._num_clips,
            "clip_ids": used.clip_ids,
            "quarantined": quarantined,
            "num_captions": used.num_captions,
            "num_unscored": used.num_unscored,
        }

    def _drop_after(self, update: int) -> None:
        for path in self._folder.glob("*.parquet"):
            name = _NAME.fullmatch(path.name)
            if name and int(name[1]) > update:
                path.unlink()


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """What a ledger without faults amounts to."""

    num_updates: int
    num_batches: int
    num_skipped: int
    """Batches of which no clip could be used."""
    num_epochs: int
    """Finished ones: each of their clips was used once, or quarantined."""
    num_used: int
    """Clips."""
    num_quarantined: int
    """Times that a clip could not be used."""
    num_captions: int
    num_unscored: int


def read_ledger(run: RunDirectory) -> pa.Table:
    """Return the rows of a run's ledger, in the order of the stream.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    files = sorted(run.ledger.glob("update-*.parquet"))
    if not files:
        raise DataError(f"{run.path} holds no ledger yet: it is written with each checkpoint")
    try:
        return pa.concat_tables([pq.read_table(file, schema=SCHEMA) for file in files]).sort_by("batch_index")
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"the ledger in {run.ledger} cannot be read: {error}") from error


def check_ledger(table: pa.Table) -> LedgerReport:
    """Prove that every batch of the stream was used once or skipped, and every clip of a finished epoch accounted for.

    Raises:
        DataError: names what was used twice or lost.
    """
    _check_batches(table)
    num_epochs = _check_epochs(table)
    skipped = table.filter(pc.is_null(table["update"]))
    used = table.filter(pc.is_valid(table["update"]))
    _check_clips(used)
    return LedgerReport(
        num_updates=len(pc.unique(used["update"])),
        num_batches=used.num_rows,
        num_skipped=skipped.num_rows,
        num_epochs=num_epochs,
        num_used=_num_items(used["clip_ids"]),
        num_quarantined=_num_items(used["quarantined"]) + _num_items(skipped["positions"]),
        num_captions=_sum(used["num_captions"]),
        num_unscored=_sum(used["num_unscored"]),
    )


def _check_batches(table: pa.Table) -> None:
    """Each number occurs once, none is left out, and updates follow the stream."""
    found = table["batch_index"].to_numpy()
    twice = found[1:][found[1:] == found[:-1]]
    if len(twice):
        raise DataError(f"batch {twice[0]} stands in the ledger twice: its rollouts were used by two updates")
    missing = np.setdiff1d(np.arange(len(found)), found)
    if len(missing):
        raise DataError(f"batch {missing[0]} is missing from the ledger: its clips were lost")
    updates = table["update"].drop_null().to_numpy()
    if len(updates) and (np.diff(updates) < 0).any():
        raise DataError("the updates in the ledger do not follow the stream: it is of more than one run")


def _check_epochs(table: pa.Table) -> int:
    """Each position occurs once in each finished epoch; returns their number."""
    heard = pc.list_flatten(table["positions"]).to_numpy()
    num_clips: int = table["num_clips"][0].as_py()
    num_epochs = len(heard) // num_clips
    epochs = np.sort(heard[: num_epochs * num_clips].reshape(num_epochs, num_clips), axis=1)
    for epoch, positions in enumerate(epochs):
        if not np.array_equal(positions, np.arange(num_clips)):
            lost = np.setdiff1d(np.arange(num_clips), positions)
            raise DataError(f"epoch {epoch} is not whole: clip {lost[0]} of the source was never asked for")
    return num_epochs


def _check_clips(used: pa.Table) -> None:
    """Each clip of a batch reached the learner, or was quarantined."""
    asked, heard, bad = (pc.list_value_length(used[name]) for name in ("positions", "clip_ids", "quarantined"))
    odd = used.filter(pc.not_equal(asked, pc.add(heard, bad)))
    if odd.num_rows:
        row = odd.slice(0, 1).to_pylist()[0]
        raise DataError(
            f"batch {row['batch_index']} asked for {len(row['positions'])} clips, but update {row['update']} used "
            f"{len(row['clip_ids'])}, and {len(row['quarantined'])} were quarantined"
        )


def _num_items(lists: pa.ChunkedArray) -> int:
    return _sum(pc.list_value_length(lists))


def _sum(numbers: pa.ChunkedArray) -> int:
    return int(pc.sum(numbers).as_py() or 0)
