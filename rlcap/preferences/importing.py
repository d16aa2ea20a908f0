"""Preference pairs from files of other layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlcap.errors import DataError
from rlcap.preferences.fense import fense_rows, is_fense
from rlcap.preferences.label_studio import flat_row, is_flat, is_task, task_rows
from rlcap.preferences.pair_rows import read_pair
from rlcap.preferences.pairs import PreferencePair
from rlcap.tables.json_values import json_line_rows, listed_rows, read_json
from rlcap.tables.reading import READERS, read_rows
from rlcap.tables.rows import Row, described, refuse_what_left_nothing, sift
from rlcap.types import Quarantined


@dataclass(frozen=True, slots=True)
class ImportedPairs:
    """The pairs of a file, and what of it is none."""

    pairs: list[PreferencePair]
    quarantined: list[Quarantined]
    """Rows that cannot be used."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """What says nothing, such as cancelled annotations."""


def import_pairs(path: Path) -> ImportedPairs:
    """Read pairs from a table (CSV, TSV, JSON lines, Parquet) or from JSON; rows that cannot be used are left out.

    A table has the columns clip_id, caption_a, caption_b, and either `votes` (1 for A, -1 for B, 0 for neither, in a
    list or parted by spaces) or `preferred` (a, b or tie), one row an annotator; rows of one pair become one pair.
    A table with the columns chosen and rejected, and clip_id or audio, is read as well: chosen is caption A, and both
    may be lists of messages. JSON is that of FENSE, or a list of rows. Label Studio's pairwise labels are read from
    JSON, JSON-MIN and CSV.

    Raises:
        DataError: the file is missing or damaged, has an unknown ending, or none of its rows is a preference.
    """
    passed_over: Counter[str] = Counter()
    rows = _rows(path, passed_over)
    sifted = sift(rows.found, read_pair, path.name)
    if not sifted.values:
        refuse_what_left_nothing(str(path), sifted.quarantined)
        counted = ", ".join(f"{what} ({count})" for what, count in (+passed_over).items())
        raise DataError(f"{path} holds no preferences" + (f"; passed over: {counted}" if counted else ""))
    pairs = _joined(sifted.values) if rows.are_votes else sifted.values
    return ImportedPairs(pairs, sifted.quarantined, +passed_over)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a file, and whether several may be votes on one pair."""

    found: Iterator[Row]
    are_votes: bool = True


def _rows(path: Path, passed_over: Counter[str]) -> _Rows:
    kinds = [".json", *READERS]
    if path.suffix.lower() not in kinds:
        raise DataError(f"preferences come as {', '.join(kinds)}; got {path}")
    if path.suffix.lower() == ".json":
        return _json_rows(path, passed_over)
    return _Rows(_table_rows(read_rows(path, optional=None), passed_over))


def _json_rows(path: Path, passed_over: Counter[str]) -> _Rows:
    if _holds_lines(path):
        return _Rows(_table_rows(json_line_rows(path, (), None), passed_over))
    items = read_json(path)
    if not isinstance(items, list):
        raise DataError(
            f"{path} must hold a JSON list, of clips as FENSE has them, of tasks as Label Studio has them, or of rows; "
            f"found {described(items)}"
        )
    if any(map(is_task, items)):
        return _Rows(task_rows(items, passed_over))
    if any(map(is_fense, items)):
        return _Rows(fense_rows(items), are_votes=False)
    return _Rows(_table_rows(listed_rows(items), passed_over))


def _holds_lines(path: Path) -> bool:
    """Whether a file ending in .json holds JSON lines, as Hugging Face's `to_json` writes them."""
    try:
        with path.open("rb") as file:
            start = file.read(2**20)
    except OSError as error:
        raise DataError(f"{path} cannot be read as JSON: {error.strerror}") from error
    first, _, others = start.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")
    return first.startswith(b"{") and first.rstrip().endswith(b"}") and others.lstrip().startswith(b"{")


def _table_rows(rows: Iterable[Row], passed_over: Counter[str]) -> Iterator[Row]:
    """Turn rows of Label Studio's JSON-MIN and CSV into those of pairs; others are as they are."""
    for row in rows:
        known = flat_row(row, passed_over) if is_flat(row) else row
        if known is not None:
            yield known


def _joined(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Make one pair of several that agree in everything but the votes."""
    votes: dict[PreferencePair, list[int]] = {}
    for pair in pairs:
        votes.setdefault(replace(pair, votes=(0,)), []).extend(pair.votes)
    return [replace(pair, votes=tuple(given)) for pair, given in votes.items()]
