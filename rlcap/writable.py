"""Whether a file or folder can be written, found out before hours are spent on what would go there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rlcap.errors import ConfigError, in_one_line


def require_file(path: Path, name: str) -> None:
    """Refuse a file that cannot be written; neither it nor its folder, which is made with it, is made or changed.

    Raises:
        ConfigError: says so of `name`, a setting or argument.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{name} must name a file, but {path} is a folder")
        if path.exists():
            os.close(os.open(path, os.O_WRONLY))
        else:
            _try_folder(_nearest(path.parent))
    except OSError as fault:
        raise ConfigError(f"{name}: {path} cannot be written: {in_one_line(fault)}") from fault


def require_folder(path: Path, name: str) -> None:
    """Refuse a folder that cannot be made or written to; it is neither made nor changed.

    Raises:
        ConfigError: says so of `name`, a setting.
    """
    try:
        there = _nearest(path)
        if not there.is_dir():
            raise ConfigError(f"{name}={path} cannot be made a folder: {there} is none")
        _try_folder(there)
    except OSError as fault:
        raise ConfigError(f"{name}={path} cannot be written to: {in_one_line(fault)}") from fault


def _nearest(folder: Path) -> Path:
    """Return the folder, or of those above it the first that is there; or whatever stands in its place."""
    return next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))


def _try_folder(folder: Path) -> None:
    """Make a file and let it go: permissions alone do not tell of disks that are full or read-only."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0")
        file.flush()
