"""How long a batch takes each caption actor, and which of them are slow beside the others."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from statistics import fmean, median_low

SLOW = 1.5
"""An actor is slow that takes more than this many times as long as most."""
NUM_ANSWERS, LEAST_ANSWERS = 8, 3
"""A pace is the mean of so many latest answers, since batches differ; with fewer than the least it is not known."""
RECHECK = 5.0
"""A slow actor for which there is no work is tried again after so many times its pace: it may be faster by now."""


class Paces:
    """Learns from answers; an actor of which it knows too little is taken to be as fast as most."""

    def __init__(self) -> None:
        self._walls_s: dict[int, deque[float]] = {}
        self._noted_at: dict[int, float] = {}

    def note(self, actor_id: int, wall_s: float) -> None:
        """Learn how long an actor was at a batch."""
        self._walls_s.setdefault(actor_id, deque(maxlen=NUM_ANSWERS)).append(wall_s)
        self._noted_at[actor_id] = time.monotonic()

    def forget(self, actor_id: int) -> None:
        """Know nothing of an actor that was lost: it comes back as another process, perhaps elsewhere."""
        self._walls_s.pop(actor_id, None)

    def slow(self, actors: Collection[int]) -> dict[int, float]:
        """Return the slow ones among some actors, and how many batches all others finish while each finishes one."""
        paces_s = {
            actor_id: self._pace_s(actor_id)
            for actor_id in actors
            if len(self._walls_s.get(actor_id, ())) >= LEAST_ANSWERS
        }
        if not paces_s:
            return {}
        usual_s = median_low(paces_s.values())
        slow = {actor_id: pace_s for actor_id, pace_s in paces_s.items() if pace_s > SLOW * usual_s}
        if not slow:
            return {}
        batches_per_s = sum(1 / paces_s.get(actor_id, usual_s) for actor_id in actors)
        return {actor_id: pace_s * batches_per_s - 1 for actor_id, pace_s in slow.items()}

    def is_old(self, actor_id: int) -> bool:
        """Tell whether the pace of an actor was learned long ago."""
        return time.monotonic() - self._noted_at[actor_id] > RECHECK * self._pace_s(actor_id)

    def _pace_s(self, actor_id: int) -> float:
        """The mean, or less where the latest two say that it has become faster."""
        walls_s = self._walls_s[actor_id]
        return min(fmean(walls_s), max(walls_s[-1], walls_s[-2]))
