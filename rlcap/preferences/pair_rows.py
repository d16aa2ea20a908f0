"""The rows of tables of preferences, each as one pair with the votes of its row."""

from __future__ import annotations

from rlcap.errors import RowError
from rlcap.preferences.messages import last_answer
from rlcap.preferences.pairs import PreferencePair
from rlcap.tables.rows import Row, described, is_nothing, shown, whole_number

_PREFERRED = {"a": 1, "b": -1, "tie": 0, "1": 1, "-1": -1, "0": 0}
_VOTES = "each vote as 1, -1 or 0 in `votes`, or as a, b or tie in `preferred`"
COLUMNS = (
    "expected the columns clip_id, caption_a, caption_b, and votes or preferred; or audio, chosen and rejected; or an "
    "export of Label Studio's pairwise labels: rename columns that have other names"
)


def read_pair(row: Row) -> PreferencePair:
    """Read a row with clip_id (or audio), caption_a and caption_b (or chosen and rejected), votes or preferred.

    Raises:
        RowError: names the column, what was expected in it, and what is there.
    """
    if "caption_a" in row.cells or "caption_b" in row.cells:
        caption_a, caption_b, votes = row.text("caption_a"), row.text("caption_b"), _votes(row)
        source_a, source_b = row.word("source_a"), row.word("source_b")
    elif "chosen" in row.cells or "rejected" in row.cells:
        caption_a, caption_b = last_answer(row, "chosen"), last_answer(row, "rejected")
        votes = _votes(row) if row.has("votes") else (1,)
        source_a, source_b = (row.word(f"source_{x}") or row.word(f"{which}_model") for x, which in _SOURCES)
    else:
        there = ", ".join(shown(name) for name in list(row.cells)[:20])
        raise RowError(f"{COLUMNS}; found {there or 'none'}")
    return PreferencePair(_clip_id(row), caption_a, caption_b, votes, source_a, source_b, row.word("category"))


_SOURCES = (("a", "chosen"), ("b", "rejected"))


def _clip_id(row: Row) -> str:
    """Return the id of a clip, or the path of a Hugging Face `Audio`."""
    column = "clip_id" if row.has("clip_id") or "audio" not in row.cells else "audio"
    value = row.cells.get(column)
    if not isinstance(value, dict) or "path" not in value:
        return row.text(column)
    try:
        return Row(row.number, row.where, value).text("path")
    except RowError as error:
        raise RowError(f"column {column!r}, {error}") from error


def _votes(row: Row) -> tuple[int, ...]:
    """Return the votes of a row, which `votes` lists, or `preferred` words."""
    if row.has("votes"):
        given = row.cells["votes"]
        listed = given.replace(",", " ").strip(" []").split() if isinstance(given, str) else given
        return tuple(_vote(vote, "votes") for vote in (listed if isinstance(listed, list) else [listed])) or _no_votes()
    if not row.has("preferred"):
        raise RowError(f"give {_VOTES}; found neither")
    return (_vote(row.cells["preferred"], "preferred"),)


def _no_votes() -> tuple[int, ...]:
    raise RowError(f"column 'votes': give {_VOTES}; found an empty list")


def _vote(given: object, column: str) -> int:
    vote = _PREFERRED.get(given.strip().lower()) if isinstance(given, str) else whole_number(given)
    if vote not in (1, 0, -1) or is_nothing(given):
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        found = f"the number {shown(given)}" if is_number else described(given)
        raise RowError(f"column {column!r}: give {_VOTES}; found {found}")
    return vote
