"""Decoding hidden behind sampling: the batch that an actor is likely to be asked for next is read in the background."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

from rlcap.protocols import AudioSource
from rlcap.types import Clip, Quarantined

Heard: TypeAlias = tuple[list[Clip], list[Quarantined]]


class ReadingAhead:
    """Reads a source in one thread of its own, since sources need not bear two; holds one batch at most."""

    def __init__(self, source: AudioSource) -> None:
        self._source = source
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._positions: tuple[int, ...] = ()
        self._ahead: Future[Heard] | None = None
        self.waited_s = 0.0
        """How long the last `read` took."""

    def read(self, positions: Sequence[int]) -> Heard:
        """Return what the source reads at these positions, at once where that was begun in time."""
        started = time.monotonic()
        self.begin(positions)
        assert self._ahead is not None, "begun just now, if not before"
        try:
            return self._ahead.result()
        finally:
            self._ahead = None
            self.waited_s = time.monotonic() - started

    def begin(self, positions: Sequence[int]) -> None:
        """Read these positions in the background; what was begun for others is let go."""
        if self._ahead is not None:
            if self._positions == tuple(positions):
                return
            self._ahead.cancel()
        self._positions = tuple(positions)
        self._ahead = self._executor.submit(self._source.read, self._positions)
