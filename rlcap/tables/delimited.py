"""CSV as spreadsheets of any language save it: commas, semicolons or tabs, UTF-8 or UTF-16."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rlcap.errors import DataError
from rlcap.tables.encodings import errors_of, text_encoding
from rlcap.tables.json_values import MAX_LINE_CHARACTERS, check_names
from rlcap.tables.rows import Row, shown

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_DECLARED = re.compile(r"sep=(.)\s*", re.IGNORECASE)


def delimited_rows(path: Path, required: Sequence[str], optional: Sequence[str] | None) -> Iterator[Row]:
    """Read CSV or TSV; every cell is text, so that the clip id `007` stays what it is.

    The delimiter is the one that parts the first line into most cells: a comma, where none does better (a tab, in TSV).
    A row that has not as many cells as the header is broken, empty cells at its end apart.
    """
    with _opened(path) as file:
        first = _header_line(file, path)
        delimiter = _delimiter(first, path)
        lines = _Lines(file, path, first)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header = _header(reader, path)
        check_names(path, header, required)
        kept = [place for place, name in enumerate(header) if name and _is_kept(name, required, optional)]
        number, end = 0, lines.number
        for cells in _rows(reader):
            start, end = end + 1, lines.number
            if isinstance(cells, list) and not any(cells):
                continue
            number += 1
            where = f"row {number} (line {start})" if start == end else f"row {number} (lines {start} to {end})"
            broken = cells if isinstance(cells, str) else _fault(cells, header, delimiter)
            yield Row(number, where, {} if broken else {header[place]: cells[place] for place in kept}, broken)


class _Lines:
    """The lines of a file, counted, from its header on."""

    def __init__(self, file: IO[str], path: Path, first: str) -> None:
        declared = _DECLARED.fullmatch(first)
        self._file, self._path, self._first = file, path, "" if declared else first
        self.number = 1 if declared else 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line, self._first = self._first or self._file.readline(MAX_LINE_CHARACTERS), ""
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == MAX_LINE_CHARACTERS:
            raise DataError(f"{self._path} line {self.number} is longer than {MAX_LINE_CHARACTERS} characters")
        return line


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    encoding = text_encoding(path)
    with path.open(encoding=encoding, errors=errors_of(encoding), newline="") as file:
        try:
            yield file
        except UnicodeError as error:
            raise DataError(f"{path} cannot be read as {encoding.upper()}: {error}; save it as UTF-8") from error


def _header_line(file: IO[str], path: Path) -> str:
    line = file.readline(MAX_LINE_CHARACTERS)
    while line and not line.strip():
        line = file.readline(MAX_LINE_CHARACTERS)
    if not line:
        raise DataError(f"{path} is empty")
    if "\0" in line:
        raise DataError(f"{path} is no text in UTF-8, its first line holds zero bytes: save it as UTF-8")
    return line.removeprefix("\ufeff")  # UTF-8 with a mark that was turned into UTF-16 has two of them


def _delimiter(first: str, path: Path) -> str:
    declared = _DECLARED.fullmatch(first)
    if declared:
        return declared[1]
    preferred = "\t" if path.suffix.lower() == ".tsv" else ","
    return max([preferred, *DELIMITERS], key=first.count)


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise DataError(f"{path} line 1 cannot be read as the names of columns: {error}") from error
    while header and not header[-1]:
        header.pop()
    if not header:
        raise DataError(f"{path} is empty")
    return header


def _is_kept(name: str, required: Sequence[str], optional: Sequence[str] | None) -> bool:
    return optional is None or name in required or name in optional


def _rows(reader: Iterator[list[str]]) -> Iterator[list[str] | str]:
    """Read row by row; in place of one that is no CSV, why not."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"it is not CSV: {error}; see whether each quote is closed, and quotes within quotes are doubled"


def _fault(cells: list[str], header: list[str], delimiter: str) -> str:
    """Say why a row does not fit the header; empty where it does."""
    if len(cells) < len(header):
        return (
            f"{_num_cells(cells)}, the header has {len(header)}: a line break within a cell must stand in quotes; "
            f"the row begins with {shown(cells[0])}"
        )
    if any(cells[len(header) :]):
        return (
            f"{_num_cells(cells)}, the header has {len(header)}: put cells that hold {DELIMITERS.get(delimiter, 'it')} "
            f"in quotes; the row begins with {shown(cells[0])}"
        )
    return ""


def _num_cells(cells: list[str]) -> str:
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
