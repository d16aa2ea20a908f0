"""Whether a file or folder can be written, found out before hours are spent on what would go there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rlcap.errors import ConfigError, in_one_line


def require_file(path: Path, name: str) -> None:
    """Refuse a file that cannot be written; it is neither made nor changed.

    Raises:
        ConfigError: says so of `name`, a setting or argument.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{name} must name a file, but {path} is a folder")
        if not path.parent.is_dir():
            raise ConfigError(f"{name}: there is no folder {path.parent} to write {path.name} to")
        if path.exists():
            os.close(os.open(path, os.O_WRONLY))
        else:
            _try_folder(path.parent)
    except OSError as fault:
        raise ConfigError(f"{name}: {path} cannot be written: {in_one_line(fault)}") from fault


def require_folder(path: Path, name: str) -> None:
    """Refuse a folder that cannot be made or written to; it is neither made nor changed.

    Raises:
        ConfigError: says so of `name`, a setting.
    """
    try:
        there = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
        if not there.is_dir():
            raise ConfigError(f"{name}={path} cannot be made a folder: {there} is none")
        _try_folder(there)
    except OSError as fault:
        raise ConfigError(f"{name}={path} cannot be written to: {in_one_line(fault)}") from fault


def _try_folder(folder: Path) -> None:
    """Make a file and let it go: permissions alone do not tell of disks that are full or read-only."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0")
        file.flush()
