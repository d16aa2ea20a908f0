"""The requests that caption actors are at: who is how busy, who is late, and who has hung."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, replace
from statistics import median

import ray

from actors.audio_cursor import CursorBatch
from actors.messages import RewardReference

LATE_FACTOR, LATE_S = 3.0, 1.0
"""A batch is late that takes this many times longer than most, and at least so long."""
NUM_LATENCIES = 32
"""Of so many latest answers it is known how long they took."""


@dataclass(frozen=True, slots=True)
class Task:
    """A batch to be captioned, and by whom it is to be scored."""

    batch: CursorBatch
    reward: RewardReference
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """A task that an actor was asked to do."""

    task: Task
    actor_id: int
    rollouts: ray.ObjectRef
    asked_at: float
    deadline: float


class InFlight:
    """Requests by the reference that their answer will come by."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._requests: dict[ray.ObjectRef, Request] = {}
        self._latencies: deque[float] = deque(maxlen=NUM_LATENCIES)

    def __len__(self) -> int:
        """Number of requests."""
        return len(self._requests)

    def __contains__(self, info: ray.ObjectRef) -> bool:
        """Tell whether an answer to a request would come by this reference."""
        return info in self._requests

    @property
    def refs(self) -> list[ray.ObjectRef]:
        """What to wait for."""
        return list(self._requests)

    def add(self, info: ray.ObjectRef, task: Task, actor_id: int, rollouts: ray.ObjectRef) -> None:
        """Note a request that was made just now."""
        now = time.monotonic()
        self._requests[info] = Request(task, actor_id, rollouts, now, now + self._timeout_s)

    def take(self, info: ray.ObjectRef) -> Request:
        """Return a request that has come to its end."""
        return self._requests.pop(info)

    def note_answer(self, request: Request) -> None:
        """Learn from a good answer how long they take."""
        self._latencies.append(time.monotonic() - request.asked_at)

    def drop_actor(self, actor_id: int) -> list[Task]:
        """Forget the requests of an actor; returns what it was at."""
        dropped = [info for info, request in self._requests.items() if request.actor_id == actor_id]
        return [self._requests.pop(info).task for info in dropped]

    def loads(self) -> Counter[int]:
        """Count the requests of each actor."""
        return Counter(request.actor_id for request in self._requests.values())

    def holds(self, batch_index: int) -> bool:
        """Tell whether some actor is at a batch."""
        return any(request.task.batch.batch_index == batch_index for request in self._requests.values())

    def late(self, wanted: Collection[int]) -> Task | None:
        """Return the oldest of the wanted batches that is late and that one actor alone is at."""
        if not self._latencies:
            return None
        asked_before = time.monotonic() - max(LATE_S, LATE_FACTOR * median(self._latencies))
        copies = Counter(request.task.batch.batch_index for request in self._requests.values())
        for request in self._requests.values():
            index = request.task.batch.batch_index
            if index in wanted and copies[index] == 1 and request.asked_at < asked_before:
                return request.task
        return None

    def latest(self) -> Task | None:
        """Return what was asked for last and is still under way."""
        return next((request.task for request in reversed(self._requests.values())), None)

    def hung(self) -> set[int]:
        """Return the actors that are beyond their time limit; the same requests do not count against them again."""
        now = time.monotonic()
        hung = {request.actor_id for request in self._requests.values() if request.deadline < now}
        for info, request in self._requests.items():
            if request.actor_id in hung:
                self._requests[info] = replace(request, deadline=now + self._timeout_s)
        return hung

    def describe(self) -> list[str]:
        """Say of each request who was asked, and how long ago."""
        now = time.monotonic()
        return [
            f"caption actor {request.actor_id} was asked for batch {request.task.batch.batch_index} "
            f"{now - request.asked_at:.0f} s ago"
            for request in self._requests.values()
        ]
