"""Progress on the terminal: a bar where there is a person to see it, a line a stage where there is a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

CONSOLE = Console(stderr=True)
WIDE = 125
"""Columns of a terminal that shows everything beside one another."""

Advance = Callable[[str], None]
"""Called after each step with a short note, such as the current loss."""


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Advance]:
    """Show a bar of `total` steps; the value is called after each of them."""
    with make_bar(CONSOLE) as progress:
        task = progress.add_task(description, total=total, note="")
        yield lambda note: progress.update(task, advance=1, note=note)


def make_bar(console: Console) -> Progress:
    """Make a bar for a terminal; its tasks need a `note`."""
    return Progress(*_columns(console.width), console=console)


def _columns(width: int) -> Sequence[ProgressColumn]:
    """Leave room for the note: it says what the bar does not."""
    note = TextColumn("{task.fields[note]}")
    if width < WIDE:
        return TextColumn("{task.description}"), BarColumn(bar_width=8), MofNCompleteColumn(), TimeElapsedColumn(), note
    description, bar = TextColumn("{task.description:<34}"), BarColumn(bar_width=28)
    return description, bar, MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), note


def announce(text: str) -> None:
    """Say one line between bars."""
    CONSOLE.print(text, highlight=False)
