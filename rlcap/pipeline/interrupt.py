"""Ctrl-C: the first one stops a run between updates, with a checkpoint; the second one stops it at once.

SIGHUP, of a closed terminal, does the same; several within a moment are one. SIGTERM counts as a first one, however
often it comes.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from rlcap.pipeline.progress import announce
from rlcap.stop_signals import Echoes, stop_signals


class StopRequested(KeyboardInterrupt):
    """The user asked to stop, and the run is at a point from which it can go on later."""


class StopSignal:
    """While entered, SIGINT, SIGTERM and SIGHUP only raise a flag, which `check` turns into `StopRequested`."""

    def __init__(self) -> None:
        self._requested = False
        self._echoes = Echoes()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *stop_signals()):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise `StopRequested` if a signal has come."""
        if self._requested:
            raise StopRequested

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        is_echo = self._echoes.note()
        if self._requested and (number == signal.SIGINT or (number == signal.SIGHUP and not is_echo)):
            raise KeyboardInterrupt
        if self._requested:
            return  # who ends a job tells each of its processes, and a supervisor tells its child once more
        self._requested = True
        announce("stopping: writing a checkpoint (press Ctrl-C again to stop at once)")
