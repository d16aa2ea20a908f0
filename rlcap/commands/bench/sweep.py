"""Values of a setting that a benchmark goes through."""

from __future__ import annotations

import argparse


def numbers(text: str) -> list[int]:
    """Read whole numbers, with commas between them."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers such as 1,2,4, got {text!r}") from error


def sizes(text: str) -> list[float]:
    """Read numbers, with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers such as 50,500, got {text!r}") from error
