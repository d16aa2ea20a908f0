"""Signals that ask a process to stop, and a pipe that says that its supervisor is gone.

SIGTERM and SIGHUP, which a terminal sends when it is closed, count as Ctrl-C. Under `nohup` SIGHUP stays ignored.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

ECHO_S = 5.0
"""A closed terminal is told by the system, the shell and a supervisor: what comes so soon is the same once more."""
SUPERVISOR_PIPE = "RLCAP_SUPERVISOR_PIPE"
"""Names the descriptor of a pipe that a supervisor holds open for as long as it lives."""


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return what asks to stop besides Ctrl-C; not SIGHUP where whoever started the process had it ignored."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return (signal.SIGTERM,)
    return signal.SIGTERM, signal.SIGHUP


class Echoes:
    """Tells whether a request to stop is the one before, said once more."""

    def __init__(self) -> None:
        self._asked_at: float | None = None

    def note(self) -> bool:
        """Note a request; returns whether it follows the last one that counted within `ECHO_S`."""
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at < ECHO_S:
            return True
        self._asked_at = now
        return False


def interrupt_on_stop_signals() -> None:
    """Let this process end as by Ctrl-C: commands clean up, and say where to go on."""
    echoes = Echoes()

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if not echoes.note():
            raise KeyboardInterrupt

    for number in stop_signals():
        signal.signal(number, interrupt)


@contextmanager
def deaf_to_hangup() -> Iterator[None]:
    """Let what is started within never hear that the terminal was closed, as Ray has it with Ctrl-C.

    This process hears it, writes a checkpoint with the help of those, and then ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def supervisor_pipe() -> Iterator[int]:
    """Yield a descriptor for `pass_fds` and `SUPERVISOR_PIPE`, in the environment, of an `rlcap` that is started here.

    That one stops at the end of the block, or when this process is gone, even by SIGKILL: the other end is closed then.
    """
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        os.close(theirs)
        os.close(ours)


def stop_with_supervisor() -> None:
    """Ask this process to stop, as by SIGTERM, once the supervisor that started it is gone, however it ended."""
    descriptor = os.environ.pop(SUPERVISOR_PIPE, "")
    if not descriptor:
        return
    os.set_inheritable(int(descriptor), False)

    def wait() -> None:
        os.read(int(descriptor), 1)  # nothing is ever written: it returns when the other end is closed
        log.warning("the supervisor is gone: stopping")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()
