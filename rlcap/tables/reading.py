"""Tables of every kind as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from rlcap.errors import DataError
from rlcap.tables.delimited import delimited_rows
from rlcap.tables.json_values import json_line_rows
from rlcap.tables.parquet_rows import parquet_rows
from rlcap.tables.rows import Row

_Reader = Callable[[Path, Sequence[str], Sequence[str] | None], Iterator[Row]]

READERS: dict[str, _Reader] = {
    ".csv": delimited_rows,
    ".tsv": delimited_rows,
    ".jsonl": json_line_rows,
    ".parquet": parquet_rows,
}
"""By the ending of the file: path, required columns, optional ones (None: all there are)."""


def read_rows(path: Path, required: Sequence[str] = (), optional: Sequence[str] | None = ()) -> Iterator[Row]:
    """Read a table row by row; no more than a batch of rows is in memory.

    Raises:
        DataError: the file is missing, of another kind, damaged or without a row, or lacks a required column.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} must be a table of one of these kinds: {', '.join(READERS)}")
    if not path.is_file():
        raise DataError(f"there is no file {path}{_others(path.parent)}")
    number = 0
    try:
        for number, row in enumerate(reader(path, required, optional), start=1):  # noqa: B007 - counts
            yield row
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a {path.suffix[1:].upper()} table: {error}") from error
    if not number:
        raise DataError(f"{path} holds no rows")


def _others(folder: Path) -> str:
    """Name the tables that are there instead."""
    if not folder.is_dir():
        return f" (nor a folder {folder})"
    found: Iterable[str] = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in READERS)
    named = ", ".join([*found][:10])
    return f"; tables in that folder: {named}" if named else "; there are no tables in that folder"
