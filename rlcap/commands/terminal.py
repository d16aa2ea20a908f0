"""What commands say, and to whom: results on stdout, complaints on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence

FAULT, USAGE, LOST, INTERRUPTED = 1, 2, 75, 130
"""Exit codes: something failed, the command or its settings are wrong, a process was lost, the user stopped it.

After a lost process the run can go on with `resume=true`; 75 is what sysexits.h calls a temporary failure.
"""


def say(text: str) -> None:
    """Write a result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Write what went wrong."""
    sys.stderr.write(f"rlcap: {text}\n")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return a table: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *numbers in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
