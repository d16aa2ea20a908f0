"""Files and folders that are whole at any moment: made aside, under a name that nobody else has, and renamed."""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial-"


def name_aside(path: Path) -> Path:
    """Return a hidden path beside `path` that no other process uses, on whichever machine or in whichever container.

    Process ids do not serve: each container counts its own from 1.
    """
    return path.with_name(f".{path.name}{PARTIAL}{secrets.token_hex(8)}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; at the end that file takes its place in one step.

    Readers find the earlier file or the whole new one, and a block that raises leaves the earlier one. What is no file
    is not replaced: whoever may write to `/dev` would lose a device by it.

    Raises:
        FileExistsError: there is a folder, device or pipe of that name.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "this is no file, and is not replaced by one", str(path))
    partial = name_aside(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path` to fill; at the end it is renamed, unless `path` has been made meanwhile.

    A folder of that name that is not empty is never written over: the first one stays, and what was made is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = name_aside(path)
    partial.mkdir()
    try:
        yield partial
        try:
            partial.rename(path)
        except OSError:  # ENOTEMPTY or EEXIST, as the file system likes
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partials(folder: Path, older_than: float) -> None:
    """Remove what killed processes left half made in a folder, if it was last written before this time (st_mtime)."""
    for path in folder.glob(f".*{PARTIAL}*"):
        try:
            if path.lstat().st_mtime >= older_than:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue  # someone else removes it as well
