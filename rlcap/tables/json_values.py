"""JSON from files: whatever is wrong with it is told in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from rlcap.errors import DataError, RowError
from rlcap.tables.encodings import errors_of, text_encoding
from rlcap.tables.rows import Row, described

MAX_LINE_CHARACTERS = 2**24
"""Longest line of JSON lines, or of CSV, that is read: 16 Mi."""


def parse_json(text: str) -> Any:  # noqa: ANN401 - whatever the text holds
    """Parse JSON. Raises ValueError for all that is wrong, nesting beyond what can be read included."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read a JSON file. Raises DataError where it is missing, not UTF-8, or no JSON."""
    try:
        return parse_json(path.read_text(encoding=text_encoding(path)))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object. Raises DataError."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path} must hold a JSON object, found {described(found)}")
    return found


def read_json_rows(path: Path) -> list[Row]:
    """Read a JSON file that holds a list, each element of which should be an object. Raises DataError."""
    found = read_json(path)
    if not isinstance(found, list):
        raise DataError(f"{path} must hold a JSON list, found {described(found)}")
    return listed_rows(found)


def listed_rows(items: Sequence[object]) -> list[Row]:
    """Take the elements of a JSON list for rows."""
    return [
        Row(number, f"row {number}", item)
        if isinstance(item, dict)
        else Row(number, f"row {number}", {}, f"expected a JSON object, found {described(item)}")
        for number, item in enumerate(items, start=1)
    ]


def read_number(path: Path, key: str) -> float:
    """Read one finite number of a JSON object. Raises DataError where it is not there, or is none."""
    try:
        return Row(1, path.name, read_json_object(path)).figure(key)
    except RowError as error:
        raise DataError(f"{path}: {error}") from error


def json_line_rows(path: Path, required: Sequence[str], optional: Sequence[str] | None) -> Iterator[Row]:
    """Read JSON lines by the standard library: Arrow would take an id that looks like a date for one."""
    names: set[str] = set()
    kept = None if optional is None else {*required, *optional}
    number = 0
    encoding = text_encoding(path)
    with path.open(encoding=encoding, errors=errors_of(encoding)) as file:
        for line_number, line in _lines(file):
            if line is not None and not line.strip():
                continue
            number += 1
            cells, broken = _cells(line)
            names.update(cells)
            if kept is not None:
                cells = {name: cell for name, cell in cells.items() if name in kept}
            yield Row(number, f"row {number} (line {line_number})", cells, broken)
    if names:
        check_names(path, sorted(names), required)


def check_names(path: Path | str, present: Sequence[str], asked: Iterable[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        DataError: names the column, and those that are there.
    """
    for column in asked:
        if column not in present:
            named = ", ".join(name[:100] if name.isprintable() else ascii(name[:100]) for name in present[:50])
            raise DataError(f"{path} has no column {column!r}; columns there: {named}")
        if present.count(column) > 1:
            raise DataError(f"{path} has {present.count(column)} columns {column!r}: rename all but one of them")


def _lines(file: IO[str]) -> Iterator[tuple[int, str | None]]:
    """Number the lines of a file; None stands for one that is too long."""
    number = 0
    while line := file.readline(MAX_LINE_CHARACTERS):
        number += 1
        whole = len(line) < MAX_LINE_CHARACTERS
        yield number, line if whole else None
        while len(line) == MAX_LINE_CHARACTERS and not line.endswith("\n"):
            line = file.readline(MAX_LINE_CHARACTERS)


def _cells(line: str | None) -> tuple[dict[str, object], str]:
    """Return the cells of a line, or why there are none."""
    if line is None:
        return {}, f"the line is longer than {MAX_LINE_CHARACTERS} characters"
    try:
        found = parse_json(line)
    except ValueError as error:
        return {}, f"it is not JSON: {error}"
    if not isinstance(found, dict):
        return {}, f"expected a JSON object, found {described(found)}"
    return found, ""
