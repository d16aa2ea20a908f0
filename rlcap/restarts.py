"""How often something may be started again: without end while it gets on, a few times where it does not."""

from __future__ import annotations


class Restarts:
    """Counts the restarts since the last progress, which a rising number shows."""

    def __init__(self, limit: int, delay_s: float = 0.0, longest_delay_s: float = 300.0) -> None:
        self._limit = limit
        self._delay_s = delay_s
        self._longest_delay_s = longest_delay_s
        self._progress: int | None = None
        self.count = 0
        """Restarts since the last progress, the one that was just granted included."""

    def grant(self, progress: int) -> bool:
        """Say whether there may be another restart, after this much progress altogether."""
        if self._progress is None or progress > self._progress:
            self._progress, self.count = progress, 0
        if self.count >= self._limit:
            return False
        self.count += 1
        return True

    @property
    def delay_s(self) -> float:
        """How long to wait before the restart that was just granted: twice as long as before the one before it."""
        return min(self._delay_s * 2.0 ** (self.count - 1), self._longest_delay_s)
