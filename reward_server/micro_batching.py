"""Gathers work of several threads into one pass of a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class MicroBatcher(Generic[Job, Result]):
    """Runs jobs together: the first thread to come waits a moment for others, then runs for all of them."""

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Result]],
        size_of: Callable[[Job], int],
        max_size: int,
        max_wait_s: float,
    ) -> None:
        self._run = run
        self._size_of = size_of
        self._max_size = max_size
        self._max_wait_s = max_wait_s
        self._waiting: list[tuple[Job, Future[Result]]] = []
        self._has_leader = False
        self._changed = threading.Condition()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="micro-batch")

    def submit(self, job: Job) -> Result:
        """Run `job`, perhaps together with others; raises what `run` raised for the batch that it was in."""
        future: Future[Result] = Future()
        with self._changed:
            self._waiting.append((job, future))
            self._changed.notify_all()
            leads = not self._has_leader
            self._has_leader = True
        if leads:
            self._lead()
        return future.result()

    def _lead(self) -> None:
        """Run batches until nobody waits: a job that came during a batch has no other leader."""
        while batch := self._gather():
            jobs, futures = zip(*batch, strict=True)
            # On a thread of its own, so that whatever is raised reaches every thread that waits for this batch.
            done = self._executor.submit(self._run, jobs)
            error = done.exception()
            if error is not None:
                for future in futures:
                    future.set_exception(error)
                continue
            for future, result in zip(futures, done.result(), strict=True):
                future.set_result(result)

    def _gather(self) -> list[tuple[Job, Future[Result]]]:
        """Wait for jobs up to the bounds, take whole jobs up to the largest size; step down where there are none."""
        with self._changed:
            deadline = time.monotonic() + self._max_wait_s
            while self._waiting and self._size() < self._max_size and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            batch: list[tuple[Job, Future[Result]]] = []
            size = 0
            while self._waiting and (not batch or size + self._size_of(self._waiting[0][0]) <= self._max_size):
                batch.append(self._waiting.pop(0))
                size += self._size_of(batch[-1][0])
            self._has_leader = bool(batch)
            return batch

    def _size(self) -> int:
        return sum(self._size_of(job) for job, _ in self._waiting)
