"""A folder of recordings, and nothing else known of them."""

from __future__ import annotations

from rlcap.audio.decoding import DecodeLimits
from rlcap.audio.files import AUDIO_SUFFIXES, FileSource, existing_root, files_below
from rlcap.audio.records import ClipTable
from rlcap.config.data import DataConfig
from rlcap.errors import DataError


def open_folder(config: DataConfig) -> FileSource:
    """Open every audio file below the root, in the order of their paths; the path is the clip id.

    Raises:
        DataError: the root is missing or holds no audio files.
    """
    root = existing_root(config)
    paths = files_below(root, AUDIO_SUFFIXES)
    if not paths:
        raise DataError(f"{root} and its subfolders hold no audio files, such as {', '.join(sorted(AUDIO_SUFFIXES))}")
    nothing: list[list[str]] = [[]] * len(paths)
    records = ClipTable.from_columns(paths, paths, nothing, nothing, [""] * len(paths), origin=str(root))
    return FileSource(root, records, DecodeLimits.of(config))
