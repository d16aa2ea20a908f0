"""How busy a shard is: requests, their latency, and what they came to."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

NUM_LATEST = 1000
"""Requests over which latency is taken."""


@dataclass(frozen=True, slots=True)
class ShardLoad:
    """What a shard has done since it was started, and what it is at now."""

    num_requests: int
    """Answered."""
    num_captions: int
    num_failed: int
    """Captions answered without a score."""
    num_open: int
    """Requests that wait or are being scored."""
    oldest_open_s: float
    """Age of the oldest of them; 0 where there are none."""
    latency_p50_ms: float
    """From coming in to being answered, over the latest requests; NaN before the first."""
    latency_p95_ms: float
    latency_p99_ms: float


class LoadMeter:
    """Counts requests as they come and go; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next_ticket = 0
        self._open: dict[int, float] = {}  # since when, by ticket
        self._latest_s: deque[float] = deque(maxlen=NUM_LATEST)
        self._num_requests = 0
        self._num_captions = 0
        self._num_failed = 0

    def begin(self) -> int:
        """Note that a request has come; returns its ticket."""
        with self._lock:
            self._next_ticket += 1
            self._open[self._next_ticket] = time.monotonic()
            return self._next_ticket

    def cancel(self, ticket: int) -> None:
        """Note that a request was given back unanswered."""
        with self._lock:
            del self._open[ticket]

    def end(self, ticket: int, num_captions: int, num_failed: int) -> None:
        """Note that a request was answered."""
        with self._lock:
            self._latest_s.append(time.monotonic() - self._open.pop(ticket))
            self._num_requests += 1
            self._num_captions += num_captions
            self._num_failed += num_failed

    def load(self) -> ShardLoad:
        """Sum up."""
        with self._lock:
            latest_ms = 1000 * np.array(self._latest_s)
            oldest = time.monotonic() - min(self._open.values()) if self._open else 0.0
            counts = (self._num_requests, self._num_captions, self._num_failed, len(self._open))
        quantiles = np.quantile(latest_ms, [0.5, 0.95, 0.99]) if len(latest_ms) else np.full(3, np.nan)
        return ShardLoad(*counts, oldest, *(float(quantile) for quantile in quantiles))
