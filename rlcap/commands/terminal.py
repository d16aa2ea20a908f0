"""What commands say, and to whom: results on stdout, complaints on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlcap.types import Quarantined

MAX_NAMED = 10
"""Complaints about single files or rows."""
FAULT, USAGE, LOST, INTERRUPTED = 1, 2, 75, 130
"""Exit codes: something failed, the command or its settings are wrong, a process was lost, the user stopped it.

After a lost process the run can go on with `resume=true`; 75 is what sysexits.h calls a temporary failure.
"""


def say(text: str) -> None:
    """Write a result; names that are not UTF-8 come out as the bytes that they are."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Write what went wrong."""
    sys.stderr.write(f"rlcap: {text}\n")


def complain_of(quarantined: Iterable[Quarantined]) -> None:
    """Write the first of what cannot be used, each with its reason, and how many there are besides."""
    listed = list(quarantined)
    for bad in listed[:MAX_NAMED]:
        complain(f"{bad.path}: {bad.reason}")
    if len(listed) > MAX_NAMED:
        complain(f"and {len(listed) - MAX_NAMED} more; --quarantine FILE lists them all")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return a table: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *numbers in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
