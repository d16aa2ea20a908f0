"""What the training loop was at, and from when to when."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

WAIT, LEARN, PUBLISH = "wait for rollouts", "learn", "publish weights"


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, in seconds since the epoch."""

    name: str
    begin_s: float
    end_s: float


class SpanLog:
    """Notes spans; those that lie within one another on one clock stay so, whatever is done to the system's time."""

    def __init__(self) -> None:
        self._epoch_s = time.time() - time.monotonic()
        self._spans: list[Span] = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Note how long the block takes, also where it raises."""
        begin_s = self._now()
        try:
            yield
        finally:
            self._spans.append(Span(name, begin_s, self._now()))

    def take(self) -> tuple[Span, ...]:
        """Return the spans since the last call, in the order in which they ended."""
        spans, self._spans = tuple(self._spans), []
        return spans

    def _now(self) -> float:
        return self._epoch_s + time.monotonic()
