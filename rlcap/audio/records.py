"""What is known of each clip without decoding it, as one Arrow table with the same columns for every layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from rlcap.errors import DataError

_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("path", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("captions", pa.list_(pa.string())),
        ("split", pa.string()),
    ]
)


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


class ClipTable:
    """The records of a source by position."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()

    @classmethod
    def from_columns(
        cls,
        clip_ids: Sequence[str],
        paths: Sequence[str],
        labels: Sequence[Sequence[str]],
        captions: Sequence[Sequence[str]],
        splits: Sequence[str],
        *,
        origin: str,
    ) -> ClipTable:
        """Build the table of a source called `origin` in messages.

        Raises:
            DataError: there are no clips, or two share an id.
        """
        columns = [clip_ids, paths, labels, captions, splits]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        table = cls(pa.Table.from_arrays(arrays, schema=_SCHEMA))
        if not len(table):
            raise DataError(f"{origin} holds no clips")
        table._check_unique(origin)
        return table

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

    def _check_unique(self, origin: str) -> None:
        counts = pc.value_counts(self._table["clip_id"])
        most = pc.max(counts.field("counts")).as_py()
        if most == 1:
            return
        duplicate = counts.field("values")[pc.index(counts.field("counts"), most).as_py()].as_py()
        raise DataError(
            f"{origin} holds the clip id {duplicate!r} {most} times: give every clip an id of its own, "
            "or set data.clip_id_column to a column that does"
        )
