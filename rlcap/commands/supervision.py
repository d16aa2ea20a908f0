"""`rlcap train --supervise`: a light parent that starts the job again when it dies.

The job runs in a session of its own. All that it starts on this machine, Ray included, stays in that session, so what a
dead job has left behind can be told from everybody else's processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

from rlcap.checkpoint import newest_update
from rlcap.commands.terminal import INTERRUPTED, LOST, complain
from rlcap.config.run import RunConfig
from rlcap.restarts import Restarts
from rlcap.run_directory import RunDirectory, claim_run_directory
from rlcap.stop_signals import SUPERVISOR_PIPE, stop_signals, supervisor_pipe

log = logging.getLogger(__name__)

GRACE_S = 10.0
"""How long processes of a dead job may take to end by themselves, and then again after SIGTERM."""
POLL_S = 0.1
_JOB = "from rlcap.commands.main import main; main()"


def supervise(config: RunConfig, overrides: Sequence[str]) -> int:
    """Run a job, and again from its last checkpoint whenever it was killed or lost a process; return its exit code.

    `config` is what the overrides come to: the job reads them once more, in its own process. A folder that is not
    given is chosen here, since every start of the job goes on in it.

    Raises:
        ConfigError: `run_dir` holds an earlier run, or files that are not of a run.
    """
    if not config.resume:
        config.run_dir = str(claim_run_directory(config))
    try:
        return _Supervisor(config, overrides).run()
    finally:
        if not any(Path(config.run_dir).iterdir()):  # the job ended before its run began
            Path(config.run_dir).rmdir()


class _Supervisor:
    """One job and what becomes of it."""

    def __init__(self, config: RunConfig, overrides: Sequence[str]) -> None:
        self._run = RunDirectory(Path(config.run_dir))
        self._restarts = Restarts(config.cluster.max_restarts, config.cluster.restart_delay_s)
        self._first = [*(text for text in overrides if not text.startswith("run_dir=")), f"run_dir={config.run_dir}"]
        self._is_resumed = config.resume
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped_by: int | None = None
        self._woken = threading.Event()

    def run(self) -> int:
        """Start the job until it ends by itself, or there is no hope."""
        with self._forwarding_signals(), supervisor_pipe() as pipe:
            overrides = self._first
            while True:
                code = self._run_once(overrides, pipe)
                if self._stopped_by is not None or not _is_dead(code):
                    return code if code >= 0 else 128 - code
                if not self._restarts.grant(newest_update(self._run.checkpoints)):
                    complain(self._given_up(code))
                    return code if code >= 0 else 128 - code
                delay_s = self._restarts.delay_s
                log.warning("%s; restart %d in %.0f s%s", _how(code), self._restarts.count, delay_s, self._whence())
                self._woken.wait(delay_s)
                if self._stopped_by is not None:
                    return INTERRUPTED
                overrides = self._next()

    def _run_once(self, overrides: Sequence[str], pipe: int) -> int:
        command = [sys.executable, "-c", _JOB, "train", *overrides]
        environment = {**os.environ, SUPERVISOR_PIPE: str(pipe)}
        self._child = subprocess.Popen(command, start_new_session=True, pass_fds=[pipe], env=environment)
        if self._stopped_by is not None:  # the signal came before there was anybody to hand it to
            self._child.send_signal(self._stopped_by)
        code = self._child.wait()
        if _is_dead(code):
            _end_session(self._child.pid)
        return code

    def _next(self) -> list[str]:
        """Return what the next start is given: once the run has begun, its folder holds the settings."""
        if self._is_resumed or not self._run.config.is_file():
            return self._first
        return ["resume=true", f"run_dir={self._run.path}"]

    def _whence(self) -> str:
        update = newest_update(self._run.checkpoints)
        return f", from the checkpoint of update {update}" if update else ", from the start: there is no checkpoint yet"

    def _given_up(self, code: int) -> str:
        return (
            f"{_how(code)}, and {self._restarts.count} restarts (cluster.max_restarts) brought no new checkpoint: "
            f"see above for why, then go on with `rlcap train --supervise resume=true run_dir={self._run.path}`"
        )

    @contextmanager
    def _forwarding_signals(self) -> Iterator[None]:
        """Hand Ctrl-C, SIGTERM and SIGHUP on to the job, which ends with a checkpoint, and start it no more."""
        before = {number: signal.signal(number, self._forward) for number in (signal.SIGINT, *stop_signals())}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, number: int, _: FrameType | None) -> None:
        self._stopped_by = number
        self._woken.set()
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)


def _is_dead(code: int) -> bool:
    """Whether the job ended in a way that starting it again may mend; faults, guards and Ctrl-C are none."""
    return code < 0 or code == LOST


def _how(code: int) -> str:
    if code >= 0:
        return "the job lost a process that it cannot do without"
    name = signal.Signals(-code).name
    return f"the job was killed by {name}" + (" (out of memory, perhaps)" if name == "SIGKILL" else "")


def _end_session(session: int) -> None:
    """End what a dead job has left running: first it may do so by itself, then it is asked to, then it is killed."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        for process in _processes_of(session) if number is not None else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        deadline = time.monotonic() + GRACE_S
        while _processes_of(session) and time.monotonic() < deadline:
            time.sleep(POLL_S)


def _processes_of(session: int) -> list[psutil.Process]:
    """Return the processes of a session; its number stays taken as long as there are any."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess, PermissionError):
            continue
    return found
