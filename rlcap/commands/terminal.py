"""What commands say, and to whom: results on stdout, complaints on stderr."""

from __future__ import annotations

import sys

FAULT, USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes: something failed, the command or its settings are wrong, the user stopped it."""


def say(text: str) -> None:
    """Write a result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Write what went wrong."""
    sys.stderr.write(f"rlcap: {text}\n")
