"""Silence for C libraries that write warnings to the process's standard error."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
_lock = threading.Lock()
_num_muting = 0
_original = -1


@contextmanager
def muted_native_stderr() -> Iterator[None]:
    """Point file descriptor 2 at nothing meanwhile; threads may overlap.

    The MP3 decoder prints several lines for each file with a doubtful tag and has no switch for it. What other
    threads write to standard error meanwhile is lost, so keep the time short.
    """
    _mute()
    try:
        yield
    finally:
        _unmute()


def _mute() -> None:
    global _num_muting, _original
    with _lock:
        _num_muting += 1
        if _num_muting > 1:
            return
        try:
            _original = os.dup(_STDERR)
        except OSError:  # a process without standard error has nothing to mute
            _original = -1
            return
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, _STDERR)
        os.close(silence)


def _unmute() -> None:
    global _num_muting, _original
    with _lock:
        _num_muting -= 1
        if _num_muting or _original < 0:
            return
        os.dup2(_original, _STDERR)
        os.close(_original)
        _original = -1
