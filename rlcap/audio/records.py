"""What is known of each clip without decoding it, as one Arrow table with the same columns for every layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from rlcap.audio.left_out import LeftOut
from rlcap.types import Quarantined

_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("path", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("captions", pa.list_(pa.string())),
        ("split", pa.string()),
    ]
)
REPEATED = "rows that repeat a clip, whose captions and labels it keeps"


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """One clip as its source describes it."""

    clip_id: str
    path: str
    """Where the clip lies, for the user: relative to the root of the source."""
    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    split: str = ""
    """The source's own word for the part of the data; empty where it has none."""


@dataclass(frozen=True, slots=True)
class Unambiguous:
    """Records of which no two share an id."""

    records: list[ClipRecord]
    positions: Int64[np.ndarray, " record"]
    """Of each record among those that were given."""
    left_out: LeftOut


def unambiguous(given: Sequence[ClipRecord]) -> Unambiguous:
    """Keep the records whose id means one clip.

    Several rows of one clip (one path, one split) are one record with the labels and captions of all; clips that share
    an id are all quarantined, since nobody can tell which one it means.
    """
    positions: dict[str, list[int]] = {}
    for position, record in enumerate(given):
        positions.setdefault(record.clip_id, []).append(position)
    if len(positions) == len(given):
        return Unambiguous(list(given), np.arange(len(given)), LeftOut())
    kept: list[ClipRecord] = []
    firsts: list[int] = []
    quarantined: list[Quarantined] = []
    num_repeated = 0
    for same in positions.values():
        records = [given[position] for position in same]
        if len({(record.path, record.split) for record in records}) > 1:
            reason = _ambiguous(records)
            quarantined += [Quarantined(path, reason) for path in dict.fromkeys(record.path for record in records)]
            continue
        firsts.append(same[0])
        kept.append(_merged(records))
        num_repeated += len(same) - 1
    left_out = LeftOut(tuple(quarantined), {REPEATED: num_repeated} if num_repeated else {})
    return Unambiguous(kept, np.array(firsts, dtype=np.int64), left_out)


def _merged(records: Sequence[ClipRecord]) -> ClipRecord:
    labels = dict.fromkeys(label for record in records for label in record.labels)
    captions = dict.fromkeys(caption for record in records for caption in record.captions)
    return replace(records[0], labels=tuple(labels), captions=tuple(captions))


def _ambiguous(records: Sequence[ClipRecord]) -> str:
    paths = list(dict.fromkeys(record.path for record in records))
    if len(paths) == 1:
        splits = ", ".join(dict.fromkeys(repr(record.split) for record in records))
        return f"ambiguous clip id: {records[0].clip_id!r} is in more than one split ({splits})"
    return (
        f"ambiguous clip id: {records[0].clip_id!r} stands {len(records)} times, such as for {paths[0]} and "
        f"{paths[1]}; give every clip an id of its own, or set data.clip_id_column to a column that does"
    )


class ClipTable:
    """The records of a source by position."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()

    @classmethod
    def of(cls, records: Sequence[ClipRecord]) -> ClipTable:
        """Build the table of these records, of which no two share an id."""
        columns = [pa.array([getattr(record, field.name) for record in records], field.type) for field in _SCHEMA]
        return cls(pa.Table.from_arrays(columns, schema=_SCHEMA))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, position: int) -> ClipRecord:
        """Return the record at `position`.

        Raises:
            IndexError: there is no such position.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"position must lie in [0, {len(self)}), got {position}")
        row = self._table.slice(position, 1).to_pylist()[0]
        return ClipRecord(row["clip_id"], row["path"], tuple(row["labels"]), tuple(row["captions"]), row["split"])

    def take(self, positions: Int64[np.ndarray, " position"]) -> ClipTable:
        """Return the records at these positions, in this order."""
        return ClipTable(self._table.take(pa.array(positions)))

    def positions_in_splits(self, values: Sequence[str]) -> Int64[np.ndarray, " position"]:
        """Return the positions whose split is one of `values`, in order."""
        is_member = pc.is_in(self._table["split"], pa.array(values, pa.string()))
        return np.flatnonzero(is_member.to_numpy())

    def splits(self) -> list[str]:
        """Return the source's own names of its parts, sorted."""
        return sorted(pc.unique(self._table["split"]).to_pylist())
