"""Where Ray keeps its sockets, logs and token on this machine: elsewhere than usual, where the usual places fail.

The path of a Unix socket has 107 bytes, and Ray's lie deep below TMPDIR, which batch systems like to make long. The
token of a local Ray is written into the home folder, which containers may lack.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlcap.errors import RunError, in_one_line

log = logging.getLogger(__name__)

SOCKET_BYTES = 103
"""Longest path of a Unix socket: 107 bytes on Linux, 103 on macOS."""
LONGEST_SESSION = "session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""What Ray puts below its folder, with the longest process id."""
ELSEWHERE = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
"""Short places that most systems have, the usual one first."""
TOKEN = ".ray/auth_token"
"""Below the home folder."""


def choose_ray_folder() -> Path:
    """Return the folder that Ray may use here: its own choice (RAY_TMPDIR, TMPDIR, /tmp), or else a short one.

    Raises:
        RunError: no such place is short enough and can be written to.
    """
    asked = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or ELSEWHERE[0])
    reasons: list[str] = []
    for place in dict.fromkeys((asked, *ELSEWHERE)):
        fault = _fault_of(place)
        if fault is None:
            if reasons:
                log.warning("Ray keeps its files in %s: %s", place / "ray", reasons[0])
            return place / "ray"
        reasons.append(fault)
    raise RunError(
        f"Ray finds no place for its sockets and logs: {'; '.join(reasons)}. Set RAY_TMPDIR to a folder with a short "
        "path that can be written to"
    )


@contextmanager
def token_without_home() -> Iterator[None]:
    """Give a local Ray a token of its own where it could not keep one in the home folder."""
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if any(name in os.environ for name in names) or _keeps_token():
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN"]


def _fault_of(place: Path) -> str | None:
    """Say why Ray cannot keep its files below a folder."""
    longest = len(os.fsencode(place / "ray" / LONGEST_SESSION))
    if longest > SOCKET_BYTES:
        return f"{place} is too long by {longest - SOCKET_BYTES} bytes for the paths of its sockets"
    if not place.is_dir():
        return f"{place} is no folder"
    try:
        with tempfile.TemporaryDirectory(dir=place):
            pass
        if (place / "ray").exists():  # of somebody else, perhaps
            with tempfile.TemporaryDirectory(dir=place / "ray"):
                pass
    except OSError as fault:
        return f"{place} cannot be written to ({in_one_line(fault)})"
    return None


def _keeps_token() -> bool:
    try:
        token = Path.home() / TOKEN
        if token.is_file():
            return os.access(token, os.R_OK)
        token.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=token.parent):
            return True
    except (OSError, RuntimeError):  # there is no home folder, or none that can be written to
        return False
