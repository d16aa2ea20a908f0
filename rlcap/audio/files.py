"""Audio files below a root folder: finding them, and decoding only what lies inside."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlcap.audio.decoding import DecodeLimits, decode
from rlcap.audio.left_out import NOTHING, LeftOut
from rlcap.audio.records import ClipRecord, ClipTable, unambiguous
from rlcap.audio.source import RecordedSource
from rlcap.config.data import DataConfig
from rlcap.errors import ClipError, DataError
from rlcap.types import Clip, Quarantined

_READABLE = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64"}
_UNREADABLE = {".m4a", ".aac", ".wma", ".mp4", ".webm"}
AUDIO_SUFFIXES = frozenset(_READABLE | _UNREADABLE)
"""Endings of audio files; those that libsndfile cannot read are found too, so that they are quarantined and counted."""


HIDDEN, LINKED, OTHER_ENDINGS = "hidden files and folders", "linked folders", "files of other kinds"


class FileSource(RecordedSource):
    """Clips in files of their own; a record's path is relative to the root."""

    def __init__(self, root: Path, records: ClipTable, limits: DecodeLimits, left_out: LeftOut = NOTHING) -> None:
        super().__init__(records, left_out)
        self._root = root.resolve()
        self._limits = limits

    def clip(self, position: int) -> Clip:
        """Decode the clip at `position`; raises ClipError and IndexError."""
        record = self.records[position]
        return decode(existing_below(self._root, record.path), record.clip_id, self._limits)


def open_files(root: Path, given: Sequence[ClipRecord], config: DataConfig, left_out: LeftOut) -> FileSource:
    """Open the files of these records.

    Raises:
        DataError: there are no clips.
    """
    found = unambiguous(given)
    left_out += found.left_out
    if not found.records:
        left_out.refuse_nothing_left(root)
    return FileSource(root, ClipTable.of(found.records), DecodeLimits.of(config), left_out)


def existing_below(root: Path, path: str) -> Path:
    """Resolve `path` as `path_below` does; where nothing is there, in the other Unicode form of its name.

    macOS writes names with accents apart (NFD), most tables hold them composed (NFC).
    """
    resolved = path_below(root, path)
    if path.isascii() or os.path.lexists(resolved):
        return resolved
    others = (path_below(root, unicodedata.normalize(form, path)) for form in ("NFC", "NFD"))
    return next((other for other in others if os.path.lexists(other)), resolved)


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


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """Files below a root."""

    paths: list[str]
    """Relative to the root, and sorted."""
    left_out: LeftOut


def files_below(root: Path, suffixes: frozenset[str]) -> FoundFiles:
    """Find all files with these endings; hidden ones and linked folders are passed over.

    Folders that cannot be opened, and files whose names are not UTF-8, are quarantined.
    """
    found: list[str] = []
    quarantined: list[Quarantined] = []
    passed_over: Counter[str] = Counter()

    def cannot_open(error: OSError) -> None:
        quarantined.append(Quarantined(spelt_out(str(error.filename)), f"folder cannot be opened: {error.strerror}"))

    for folder, subfolders, names in os.walk(root, onerror=cannot_open):
        shown = [name for name in subfolders if not name.startswith(".")]
        visible = [name for name in names if not name.startswith(".")]
        fitting = [name for name in visible if Path(name).suffix.lower() in suffixes]
        passed_over[HIDDEN] += len(subfolders) - len(shown) + len(names) - len(visible)
        passed_over[LINKED] += sum(Path(folder, name).is_symlink() for name in shown)
        passed_over[OTHER_ENDINGS] += len(visible) - len(fitting)
        subfolders[:] = shown
        found += [Path(folder, name).relative_to(root).as_posix() for name in fitting]
    strange = [path for path in found if path != spelt_out(path)]
    quarantined += [Quarantined(spelt_out(path), "file name that is not UTF-8: rename the file") for path in strange]
    paths = sorted(set(found).difference(strange))
    return FoundFiles(paths, LeftOut(tuple(quarantined), dict(+passed_over)))


def spelt_out(path: str) -> str:
    """Spell out the bytes of a path that are not UTF-8."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
