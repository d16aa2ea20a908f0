"""One row of a table: each cell is read as what it has to be, or refused in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rlcap.errors import DataError, RowError
from rlcap.types import Quarantined

Value = TypeVar("Value")

MAX_NUMBER = 1e300
"""What lies beyond is no figure, nor are infinities."""
MAX_SHOWN = 60
"""Characters of a cell that a message shows."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a cell of a type that no column of rlcap has, such as a date or bytes."""

    what: str


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of one row by column, as the file holds them."""

    number: int
    """Of the row in its table, from 1."""
    where: str
    """Such as `row 3 (line 4)`."""
    cells: Mapping[str, object]
    broken: str = ""
    """Why this is no row at all; empty where it is one."""

    def check(self) -> None:
        """Raise RowError where this is no row."""
        if self.broken:
            raise RowError(self.broken)

    def has(self, column: str) -> bool:
        """Whether the cell holds anything: null, NaN and blank text are nothing."""
        return not is_nothing(self.cells.get(column))

    def text(self, column: str) -> str:
        """Return text that is not blank. Raises RowError for anything else."""
        if not self.has(column):
            raise self.fault(column, "text")
        return self.text_or_empty(column)

    def text_or_empty(self, column: str) -> str:
        """Return text; empty where there is nothing. Raises RowError for anything but text."""
        if not self.has(column):
            return ""
        value = self.cells[column]
        if not isinstance(value, str):
            raise self.fault(column, "text")
        return checked_text(value, column)

    def blank_or_text(self, column: str) -> str:
        """Return text, which may be blank: a captioner may say nothing. Raises RowError where there is no text."""
        value = self.cells.get(column)
        if not isinstance(value, str):
            raise self.fault(column, "text")
        return checked_text(value, column)

    def word(self, column: str) -> str:
        """Return a word that tells rows apart: text, a whole number in decimals, or `True` and `False`.

        Empty where there is nothing. Raises RowError for anything else.
        """
        value = self.cells.get(column)
        if isinstance(value, bool):
            return str(value)
        number = whole_number(value)
        return self.text_or_empty(column) if number is None else str(number)

    def whole(self, column: str) -> int:
        """Return a whole number. Raises RowError for anything else."""
        number = whole_number(self.cells.get(column))
        if number is None:
            raise self.fault(column, "a whole number")
        return number

    def figure(self, column: str) -> float:
        """Return a finite number. Raises RowError for anything else."""
        value = self.cells.get(column)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_NUMBER < value < MAX_NUMBER:
            raise self.fault(column, "a finite number")
        return float(value)

    def flag(self, column: str) -> bool:
        """Return a boolean. Raises RowError for anything else."""
        value = self.cells.get(column)
        if not isinstance(value, bool):
            raise self.fault(column, "true or false")
        return value

    def texts(self, columns: Iterable[str]) -> list[str]:
        """Return the texts of these columns, one after another, without blank ones; a cell may hold a list of texts.

        Raises:
            RowError: a cell, or what a list holds, is neither text nor nothing.
        """
        found: list[str] = []
        for column in columns:
            value = self.cells.get(column)
            for text in value if isinstance(value, list) else [value]:
                if is_nothing(text):
                    continue
                if not isinstance(text, str):
                    raise RowError(f"column {column!r}: expected text or a list of texts, found {described(text)}")
                found.append(checked_text(text, column))
        return found

    def fault(self, column: str, expected: str) -> RowError:
        """Say what was expected in a column, and what is there."""
        return RowError(f"column {column!r}: expected {expected}, found {described(self.cells.get(column))}")


@dataclass(frozen=True, slots=True)
class Sifted(Generic[Value]):
    """What rows were read as, and those that could not be."""

    values: list[Value]
    quarantined: list[Quarantined]


def sift(rows: Iterable[Row], read: Callable[[Row], Value], name: str) -> Sifted[Value]:
    """Read every row; those that `read` refuses, or that are broken, are quarantined as rows of `name`."""
    sifted: Sifted[Value] = Sifted([], [])
    for row in rows:
        try:
            row.check()
            sifted.values.append(read(row))
        except RowError as error:
            sifted.quarantined.append(Quarantined(f"{name}, {row.where}", f"bad row: {error}"))
    return sifted


def refuse_what_left_nothing(name: str, quarantined: Sequence[Quarantined]) -> None:
    """Refuse a source of which nothing is left because of what was quarantined.

    Raises:
        DataError: names the first, and how many there are. Where nothing was quarantined, nothing is said.
    """
    if not quarantined:
        return
    first, others = quarantined[0], len(quarantined) - 1
    more = f"; {others} more cannot be used either" if others else ""
    raise DataError(f"{name} holds nothing that can be used: {first.path}: {first.reason}{more}")


def is_nothing(value: object) -> bool:
    """Whether a cell is empty: null, NaN as pandas writes it, or blank text."""
    if value is None:
        return True
    return not value.strip() if isinstance(value, str) else isinstance(value, float) and math.isnan(value)


def whole_number(value: object) -> int | None:
    """Return a whole number, which floats may hold too, as pandas has them beside gaps; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def checked_text(text: str, column: str) -> str:
    """Return text that can be stored and shown. Raises RowError for bytes that are no text."""
    if "\0" in text:
        raise RowError(f"column {column!r}: expected text, found zero bytes in {shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair stands for what is not UTF-8
        message = f"column {column!r}: expected text in UTF-8, found {shown(text)}: save the file as UTF-8"
        raise RowError(message) from error
    return text


def described(value: object) -> str:
    """Say what a cell holds, in words and in short."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {str(value).lower()}"
        case float() if math.isnan(value):
            return "NaN"
        case int() | float():
            return f"the number {shown(value)}; write it as text, in quotes"
        case str():
            return shown(value) if value.strip() else "nothing" if not value else "nothing but blanks"
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return f"a structure of {shown(', '.join(map(str, value)))}" if value else "an empty structure"
        case Unreadable():
            return value.what
        case _:
            return f"a value of type {type(value).__name__}"


def shown(value: object) -> str:
    """Quote the beginning of a value."""
    if isinstance(value, int):
        return str(value) if abs(value) < 10**MAX_SHOWN else f"with more than {MAX_SHOWN} digits"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
