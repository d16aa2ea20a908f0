"""Gathers work of several threads into one pass of a model, and makes threads wait while too much is queued."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What a batcher has done since it was made, and what waits now; sizes are in captions."""

    num_batches: int
    total_size: int
    queued_size: int
    """Waiting for a batch now."""
    num_held_back: int
    """Jobs that found the queue full."""
    held_back_s: float
    """Seconds for which they waited for room."""


class MicroBatcher(Generic[Job, Result]):
    """Runs jobs together, one batch at a time, after a moment in which others may come.

    Threads that submit wait for their own job alone. A job that would take the queue beyond `max_queued` waits until
    there is room; a larger one is taken into an empty queue. With `merge` off every job is a batch of its own.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Result]],
        size_of: Callable[[Job], int],
        *,
        max_size: int,
        max_wait_s: float,
        max_queued: int,
        merge: bool = True,
    ) -> None:
        self._run = run
        self._size_of = size_of
        self._max_size = max_size
        self._max_wait_s = max_wait_s if merge else 0.0
        self._max_queued = max_queued
        self._merge = merge
        self._waiting: list[tuple[Job, Future[Result]]] = []
        self._queued_size = 0
        self._batch: list[tuple[Job, Future[Result]]] = []
        self._is_serving = False
        self._changed = threading.Condition()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="micro-batch")
        self._num_batches = 0
        self._total_size = 0
        self._num_held_back = 0
        self._held_back_s = 0.0

    def submit(self, job: Job) -> Result:
        """Run `job`, perhaps together with others; raises what `run` raised for the batch that it was in."""
        future: Future[Result] = Future()
        size = self._size_of(job)
        with self._changed:
            self._wait_for_room(size)
            self._waiting.append((job, future))
            self._queued_size += size
            self._changed.notify_all()
            starts = not self._is_serving
            self._is_serving = True
        if starts:
            self._start()
        return future.result()

    def counts(self) -> BatchCounts:
        """What was done so far, and what waits now."""
        with self._changed:
            return BatchCounts(
                self._num_batches, self._total_size, self._queued_size, self._num_held_back, self._held_back_s
            )

    def _wait_for_room(self, size: int) -> None:
        if not self._is_full(size):
            return
        self._num_held_back += 1
        start = time.monotonic()
        self._changed.wait_for(lambda: not self._is_full(size))
        self._held_back_s += time.monotonic() - start

    def _is_full(self, size: int) -> bool:
        return bool(self._waiting) and self._queued_size + size > self._max_queued

    def _start(self) -> None:
        self._executor.submit(self._run_next).add_done_callback(self._deliver)

    def _run_next(self) -> Sequence[Result]:
        self._batch = self._gather()
        return self._run([job for job, _ in self._batch])

    def _deliver(self, done: Future[Sequence[Result]]) -> None:
        """Hand out results, or what was raised, and go on where more jobs have come."""
        error = done.exception()
        if error is not None:
            for _, future in self._batch:
                future.set_exception(error)
        else:
            for (_, future), result in zip(self._batch, done.result(), strict=True):
                future.set_result(result)
        with self._changed:
            self._is_serving = bool(self._waiting)
        if self._is_serving:
            self._start()

    def _gather(self) -> list[tuple[Job, Future[Result]]]:
        """Wait for jobs up to the bounds, and take whole jobs up to the largest size."""
        with self._changed:
            deadline = time.monotonic() + self._max_wait_s
            while self._waiting and self._queued_size < self._max_size and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            batch: list[tuple[Job, Future[Result]]] = []
            size = 0
            while self._waiting and (not batch or self._fits(size)):
                batch.append(self._waiting.pop(0))
                size += self._size_of(batch[-1][0])
            self._queued_size -= size
            self._total_size += size
            self._num_batches += 1
            self._changed.notify_all()
            return batch

    def _fits(self, size: int) -> bool:
        return self._merge and size + self._size_of(self._waiting[0][0]) <= self._max_size
