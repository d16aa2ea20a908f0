"""A candidate that scores the traffic beside the live model, while nobody uses its scores."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from reward_server.messages import ShardScores

NUM_LATEST = 4096
"""Captions that are compared."""
MAX_WAITING = 4
"""Requests that may wait for their shadow scores; beyond, they go without, so that the shadow never holds up a run."""


@dataclass(frozen=True, slots=True)
class ShadowScores:
    """Scores of the same captions by the model that was used and by the shadow; NaN where one has none."""

    used: Float32[np.ndarray, " caption"]
    shadow: Float32[np.ndarray, " caption"]
    num_skipped: int
    """Requests that went without, since the shadow lagged behind."""
    faults: tuple[str, ...]
    """Why the shadow could not score requests at all, each reason once."""


class Shadow:
    """Scores behind the back of the traffic, one request at a time."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shadow")
        self._lock = threading.Lock()
        self._num_waiting = 0
        self._clear("")

    def compare(self, used: ShardScores, version: str, score: Callable[[], Float32[np.ndarray, " batch"]]) -> None:
        """Let `score` run later, and keep what it returns beside `used`; another version than before begins anew."""
        with self._lock:
            if version != self._version:
                self._clear(version)
            if self._num_waiting >= MAX_WAITING:
                self._num_skipped += 1
                return
            self._num_waiting += 1
        task = self._executor.submit(score)
        task.add_done_callback(lambda done: self._keep(used, version, done))

    def scores(self, version: str) -> ShadowScores:
        """The latest pairs of scores by this version; none where it is no shadow."""
        with self._lock:
            pairs = np.array(self._pairs if version == self._version else [], dtype=np.float32).reshape(-1, 2)
            return ShadowScores(pairs[:, 0], pairs[:, 1], self._num_skipped, tuple(self._faults))

    def _keep(self, used: ShardScores, version: str, done: Future[Float32[np.ndarray, " batch"]]) -> None:
        error = done.exception()
        with self._lock:
            self._num_waiting -= 1
            if version != self._version:
                return
            if error is not None:
                self._faults[str(error)] = None
            else:
                self._pairs.extend(zip(used.scores.tolist(), done.result().tolist(), strict=True))

    def _clear(self, version: str) -> None:
        self._version = version
        self._num_skipped = 0
        self._faults: dict[str, None] = {}
        self._pairs: deque[tuple[float, float]] = deque(maxlen=NUM_LATEST)
