"""Captions within conversations, as TRL, distilabel and Argilla hold them."""

from __future__ import annotations

from rlcap.errors import RowError
from rlcap.tables.rows import Row, checked_text, described, is_nothing

_EXPECTED = "text, or messages of which the last is the assistant's"


def last_answer(row: Row, column: str) -> str:
    """Return the text of a cell, or of the assistant's message that ends a list of messages.

    A message is a structure of `role` and `content`; content is text, or a list of parts of which one is text.

    Raises:
        RowError: the cell holds nothing, or something else.
    """
    value = row.cells.get(column)
    if not isinstance(value, list):
        return row.text(column)
    last = value[-1] if value else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        found = f"one of role {last['role']!r}" if isinstance(last, dict) and "role" in last else described(last)
        raise RowError(f"column {column!r}: expected {_EXPECTED}, found {found} at the end")
    return _content(last.get("content"), column)


def _content(content: object, column: str) -> str:
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type", "text") == "text"]
        content = texts[0] if len(texts) == 1 else None
    if not isinstance(content, str) or is_nothing(content):
        raise RowError(f"column {column!r}: expected the assistant's text, found {described(content)}")
    return checked_text(content, column)
