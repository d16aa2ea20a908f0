"""Tables that users bring: CSV, TSV, JSON lines and Parquet files as Arrow tables of the columns asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from rlcap.errors import DataError


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read these columns of a table; those of a CSV file as text, so that the clip id `007` stays what it is.

    Raises:
        DataError: the file is missing, of another kind, damaged or empty, or lacks a column.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} must be a table of one of these kinds: {', '.join(readers)}")
    if not path.is_file():
        raise DataError(f"there is no file {path}{_others(path.parent, readers)}")
    try:
        table = reader(path, list(dict.fromkeys(columns)))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a {path.suffix[1:].upper()} table: {error}") from error
    if not table.num_rows:
        raise DataError(f"{path} holds no rows")
    return table


def check_columns(path: Path | str, present: Sequence[str], asked: Sequence[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        DataError: names the column, and those that are there.
    """
    for column in asked:
        if column not in present:
            raise DataError(f"{path} has no column {column!r}; columns there: {', '.join(present)}")


def texts(table: pa.Table, column: str) -> list[str]:
    """Return a column as text; empty where there is nothing."""
    values: list[str] = table[column].cast(pa.string()).fill_null("").to_pylist()
    return values


def filled_texts(path: Path, table: pa.Table, column: str) -> list[str]:
    """Return a column as text that no row may leave empty.

    Raises:
        DataError: names the first row that does.
    """
    values = texts(table, column)
    if "" in values:
        raise DataError(f"{path} has nothing in column {column!r} of row {values.index('') + 1} (the first one is 1)")
    return values


def text_lists(table: pa.Table, columns: Sequence[str]) -> list[list[str]]:
    """Return for each row the texts of these columns, one after another; a column may hold lists of texts."""
    if not columns:
        return [[]] * table.num_rows
    return [flat_texts(cells) for cells in zip(*(table[column].to_pylist() for column in columns), strict=True)]


def flat_texts(cells: Iterable[object]) -> list[str]:
    """Return the texts of a row, those within lists included and empty ones left out."""
    flat = [text for cell in cells for text in (cell if isinstance(cell, list) else [cell])]
    return [str(text) for text in flat if text not in (None, "")]


def _read_csv(path: Path, columns: list[str]) -> pa.Table:
    parse = csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True)
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")
    with csv.open_csv(path, parse_options=parse) as reader:
        check_columns(path, reader.schema.names, columns)
    convert = csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string()))
    return csv.read_csv(path, parse_options=parse, convert_options=convert)


def _read_parquet(path: Path, columns: list[str]) -> pa.Table:
    check_columns(path, pq.read_schema(path).names, columns)
    return pq.ParquetFile(path).read(columns=columns)


def _read_json_lines(path: Path, columns: list[str]) -> pa.Table:
    rows = list(_json_objects(path))
    present = dict.fromkeys(key for row in rows for key in row)
    if rows:
        check_columns(path, list(present), columns)
    return pa.table({column: _as_texts([row.get(column) for row in rows]) for column in columns})


def _json_objects(path: Path) -> Iterator[dict[str, Any]]:
    """Read by the standard library: Arrow would take an id that looks like a date for one."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path} line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path} line {number} must be a JSON object, got {line.strip()[:40]}")
            yield row


def _as_texts(values: list[Any]) -> pa.Array:
    """Make an Arrow array of texts, or of lists of texts where any value is a list."""
    if not any(isinstance(value, list) for value in values):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    lists = [value if isinstance(value, list) else [value] for value in values]
    return pa.array([[str(cell) for cell in cells if cell is not None] for cells in lists], pa.list_(pa.string()))


def _others(folder: Path, readers: dict[str, Any]) -> str:
    """Name the tables that are there instead."""
    if not folder.is_dir():
        return f" (nor a folder {folder})"
    found = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in readers)
    return f"; tables in that folder: {', '.join(found[:10])}" if found else "; there are no tables in that folder"
