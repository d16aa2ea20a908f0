"""Where a process stands: its stack as Python sees it, shown on a signal, also while it computes or waits in C."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path

import psutil

_SIGNAL = signal.SIGUSR1
_ANSWER_S = 2.0
_SETTLE_S = 0.1
_MAX_CHARACTERS = 4000


def show_stack_on_signal() -> None:
    """Let this process write the stacks of its threads to its standard error whenever `stack_of` asks for them."""
    faulthandler.register(_SIGNAL, all_threads=True)


def stack_of(process_id: int) -> str:
    """Return the stacks of a process on this machine, or in words why there are none."""
    try:
        status = psutil.Process(process_id).status()
        if status == psutil.STATUS_STOPPED:
            return "stopped by a signal, such as SIGSTOP; SIGCONT would let it go on"
        if not _would_answer(process_id):
            return f"{status}; it has not started far enough to show its stack"
        return f"{status}\n{_ask(process_id)}"
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return "it has ended"
    except (psutil.AccessDenied, PermissionError) as error:
        return f"its stack cannot be read: {error}"


def _would_answer(process_id: int) -> bool:
    """Tell whether the process catches the signal, which would end it otherwise."""
    caught = Path(f"/proc/{process_id}/status").read_text().split("SigCgt:")[1].split()[0]
    return bool(int(caught, 16) >> (_SIGNAL - 1) & 1)


def _ask(process_id: int) -> str:
    written = Path(f"/proc/{process_id}/fd/2").resolve()
    if not written.is_file():
        return f"its standard error, {written}, is no file to read its stack from"
    before = written.stat().st_size
    os.kill(process_id, _SIGNAL)
    deadline = time.monotonic() + _ANSWER_S
    while written.stat().st_size == before and time.monotonic() < deadline:
        time.sleep(_SETTLE_S / 4)
    time.sleep(_SETTLE_S)
    with written.open("rb") as file:
        file.seek(before)
        return file.read(_MAX_CHARACTERS).decode(errors="replace").strip() or "it shows no stack"
