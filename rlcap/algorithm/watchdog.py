"""Says in the log where every process stands when nothing has moved for long; it ends nothing itself."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)


class Watchdog:
    """Watches a counter while somebody works, in a thread of its own."""

    def __init__(self, stall_s: float, progress: Callable[[], object], describe: Callable[[], Sequence[str]]) -> None:
        """Begin to watch.

        Args:
            stall_s: how long `progress` may stay the same.
            progress: anything that changes whenever the work moves.
            describe: who is waited for, and where everybody stands; may take long.
        """
        self._stall_s = stall_s
        self._progress = progress
        self._describe = describe
        self._worker: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the caller's thread until the end of the block."""
        self._worker = threading.get_ident()
        try:
            yield
        finally:
            self._worker = None

    def stop(self) -> None:
        """Watch no more; returns at once, though it may still be describing."""
        self._ended.set()

    def _watch(self) -> None:
        seen: object = None
        since = time.monotonic()
        told = False
        while not self._ended.wait(min(1.0, self._stall_s / 4)):
            now = self._progress() if self._worker else None
            if now is None or now != seen:
                seen, since, told = now, time.monotonic(), False
            elif not told and time.monotonic() - since >= self._stall_s:
                told = True
                self._tell()

    def _tell(self) -> None:
        frame = sys._current_frames().get(self._worker or 0)
        lines = [f"the driver: {_stack(frame)}", *self._describe()]
        log.warning(
            "nothing has moved for %.0f s; this is where everybody stands:\n%s", self._stall_s, "\n".join(lines)
        )


def _stack(frame: FrameType | None) -> str:
    return "between two updates" if frame is None else "\n" + "".join(traceback.format_stack(frame)[-8:]).rstrip()
