"""How a file of text is encoded, by its byte order mark."""

from __future__ import annotations

import codecs
from pathlib import Path

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like that of UTF-16, so it comes first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def text_encoding(path: Path) -> str:
    """Return `utf-32` or `utf-16` where a mark says so, and else `utf-8-sig`: UTF-8 with a mark or without."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8-sig")


def errors_of(encoding: str) -> str:
    """How to read on behind bytes that are no text: those in UTF-8 spoil their own row alone, whose cell is refused."""
    return "surrogateescape" if encoding == "utf-8-sig" else "strict"
