"""Audio files below a root folder: finding them, and decoding only what lies inside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rlcap.audio.decoding import DecodeLimits, decode
from rlcap.audio.records import ClipTable
from rlcap.audio.source import RecordedSource
from rlcap.config.data import DataConfig
from rlcap.errors import ClipError, DataError
from rlcap.types import Clip

_READABLE = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64"}
_UNREADABLE = {".m4a", ".aac", ".wma", ".mp4", ".webm"}
AUDIO_SUFFIXES = frozenset(_READABLE | _UNREADABLE)
"""Endings of audio files; those that libsndfile cannot read are found too, so that they are quarantined and counted."""


class FileSource(RecordedSource):
    """Clips in files of their own; a record's path is relative to the root."""

    def __init__(self, root: Path, records: ClipTable, limits: DecodeLimits) -> None:
        super().__init__(records)
        self._root = root.resolve()
        self._limits = limits

    def clip(self, position: int) -> Clip:
        """Decode the clip at `position`; raises ClipError and IndexError."""
        record = self.records[position]
        return decode(path_below(self._root, record.path), record.clip_id, self._limits)


def path_below(root: Path, path: str) -> Path:
    """Resolve `path` against a resolved `root`, symbolic links included.

    Raises:
        ClipError: it leads out of the root, or cannot be a path.
    """
    try:
        resolved = Path(os.path.realpath(root / path))
    except (OSError, ValueError) as error:  # a zero byte, or a name that is too long
        raise ClipError(f"not a path: {error}") from error
    if not resolved.is_relative_to(root):
        raise ClipError("path leads out of the root folder")
    return resolved


def existing_root(config: DataConfig) -> Path:
    """Return the root folder of a source.

    Raises:
        DataError: there is no such folder.
    """
    root = Path(config.root)
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing there"
        raise DataError(f"data.root must be the folder of the recordings: expected a folder at {root}, found {found}")
    return root


def files_below(root: Path, suffixes: frozenset[str]) -> list[str]:
    """Return the paths of all files with these endings, relative to `root` and sorted; hidden ones are left out.

    Raises:
        DataError: a file name is not UTF-8.
    """
    found = sorted(_walk(root, suffixes))
    for path in found:
        if not path.isascii() and "\udc80" <= max(path) <= "\udcff":
            name = os.fsencode(path)
            raise DataError(f"{root} holds a file whose name is not UTF-8: {name!r}; rename it")
    return found


def _walk(root: Path, suffixes: frozenset[str]) -> Iterator[str]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()
