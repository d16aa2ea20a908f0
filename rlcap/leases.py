"""Leases: a file that names who works on a folder, and is touched by a heartbeat for as long as they live.

The protocol is filelock's `SoftFileLease`, which needs no more of a file system than exclusive creation: it works where
`flock` does not, on NFS and other disks that machines share. A holder that is dead is told from one that lives

- on the same machine, or in the same container, by its process id and start time: its lease is taken over at once;
- elsewhere by its heartbeat: the lease is taken over once it has not been touched for `LEASE_S`, by the clock of
  whoever waits, so that clocks need not agree.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import LeaseCompromise, SoftFileLease, Timeout

from rlcap.errors import LeaseLostError, RunError, in_one_line
from rlcap.whole_file import whole_file

log = logging.getLogger(__name__)

LEASE_S = 60.0
"""How long a holder elsewhere may be silent before its lease is taken over; all that share a disk must agree on it."""
HEARTBEAT_S = 5.0
"""Between two signs of life."""
RUN_LEASE, RUN_DRIVER = "driver.lease", "driver.json"
"""In a run directory: the lease of the process that writes there, and who that is."""
_LOOKS, _LOOK_AGAIN_S = 10, 0.1


def open_lease(path: Path) -> SoftFileLease:
    """Return a lease that is not taken yet. Each process that may want it gives the same path."""
    return SoftFileLease(
        path, lease_duration=LEASE_S, heartbeat_interval=HEARTBEAT_S, thread_local=False, on_compromise=_tell
    )


def is_ours(lease: SoftFileLease) -> bool:
    """Tell whether a lease that was taken is still ours: a process that was stopped for long may have lost it."""
    for look in range(_LOOKS):
        owner = lease.owner
        if owner is not None and owner.token == lease.token:
            return True
        if owner is not None or look == _LOOKS - 1:
            break
        time.sleep(_LOOK_AGAIN_S)  # whoever examines a lease moves it aside for a moment
    return False


@dataclass(frozen=True, slots=True)
class Driver:
    """The process that writes into a run directory."""

    command: str
    user: str
    host: str
    pid: int
    since: str
    """UTC, in ISO 8601."""
    token: str
    """That of its lease: what a driver before it has left behind has another one."""

    def __str__(self) -> str:
        return f"`{self.command}` (process {self.pid} on {self.host}, started by {self.user} at {self.since})"


class RunLease:
    """The right to write into one run directory, held by this process."""

    def __init__(self, run_path: Path, lease: SoftFileLease) -> None:
        self._run_path = run_path
        self._lease = lease

    def check(self) -> None:
        """Look whether the run is still ours to write to.

        Raises:
            LeaseLostError: somebody has taken it over, or the lease was removed.
        """
        if not is_ours(self._lease):
            owner = f"{described} has taken it over" if (described := _describe(self._run_path)) else "it is gone"
            raise LeaseLostError(
                f"this process no longer holds the lease {self._run_path / RUN_LEASE}: {owner}, after no sign of life "
                f"from here for {LEASE_S:.0f} s; nothing more is written"
            )
        if self._lease.compromise is not None:  # the heartbeat gave up on a disk that could not be written for long
            os.utime(self._run_path / RUN_LEASE)


@contextmanager
def run_lease(run_path: Path) -> Iterator[RunLease]:
    """Take the lease of a run directory until the block ends.

    Where another process has it, this takes as long as its next heartbeat; where that stays away, `LEASE_S`.

    Raises:
        RunError: another process is writing there, or nobody can.
    """
    lease = open_lease(run_path.resolve() / RUN_LEASE)
    try:
        _take(lease, run_path)
        driver = _this_process(lease.token or "")
        with whole_file(run_path / RUN_DRIVER) as fresh:
            fresh.write_text(json.dumps(asdict(driver), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        lease.release()
        raise RunError(f"{run_path} cannot be written: {in_one_line(error)}") from error
    held = RunLease(run_path, lease)
    try:
        yield held
    finally:
        if is_ours(lease):
            (run_path / RUN_DRIVER).unlink(missing_ok=True)
        lease.release()


def _take(lease: SoftFileLease, run_path: Path) -> None:
    try:
        lease.acquire(blocking=False)
    except Timeout:
        log.info(
            "%s was last written by %s: waiting for a sign of life from it, %.0f s at most",
            run_path,
            _describe(run_path) or "another process",
            LEASE_S,
        )
    else:
        return
    first = _touched_at(lease)
    try:
        lease.acquire(timeout=2 * LEASE_S, cancel_check=lambda: _touched_at(lease) not in (first, None))
    except Timeout as held:
        raise RunError(
            f"{run_path} is in use: {_describe(run_path) or 'another process'} is still running and writes there; wait "
            f"until it has ended or stop it, or give another run_dir"
        ) from held


def _touched_at(lease: SoftFileLease) -> int | None:
    """When the holder gave its last sign of life, in ns of the file system's clock; None where nobody holds it."""
    try:
        return os.stat(lease.lock_file).st_mtime_ns
    except FileNotFoundError:
        return None


def _describe(run_path: Path) -> str:
    """Say who holds the lease of a run; empty where nobody does."""
    owner = open_lease(run_path.resolve() / RUN_LEASE).owner
    if owner is None:
        return ""
    try:
        driver = Driver(**json.loads((run_path / RUN_DRIVER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # it has only just begun, or was killed when it had
        driver = None
    if driver is not None and driver.token == owner.token:
        return str(driver)
    return f"process {owner.pid} on {owner.hostname}"


def _this_process(token: str) -> Driver:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # containers run under numbers that have no name
        user = f"user {os.getuid()}"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Driver(shlex.join(["rlcap", *sys.argv[1:]]), user, socket.gethostname(), os.getpid(), now, token)


def _tell(lost: LeaseCompromise) -> None:
    if lost.reason == "refresh-failed":
        log.warning("the lease %s cannot be touched: %s", lost.lock_file, lost.error)
