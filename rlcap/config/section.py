"""The base of every settings section."""

from __future__ import annotations

from collections.abc import Iterator


class Section:
    """A group of settings that can name its own faults.

    Subclasses are mutable keyword-only dataclasses (Hydra refuses to override frozen ones), with a docstring
    under each field and an enum where only some words are allowed.
    """

    def faults(self) -> Iterator[str]:
        """Yield one sentence for each value that is not allowed, beginning with the name of its key."""
        yield from ()


def must_be_positive(**values: float) -> Iterator[str]:
    """Yield a fault for each value that is not above zero."""
    for name, value in values.items():
        if not value > 0:
            yield f"{name} must be above 0, got {value}"


def must_not_be_negative(**values: float) -> Iterator[str]:
    """Yield a fault for each value below zero."""
    for name, value in values.items():
        if not value >= 0:
            yield f"{name} must be 0 or more, got {value}"


def must_be_a_share(**values: float) -> Iterator[str]:
    """Yield a fault for each value outside [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            yield f"{name} must lie in [0, 1], got {value}"
