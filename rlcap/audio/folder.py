"""A folder of recordings, and nothing else known of them."""

from __future__ import annotations

from rlcap.audio.files import AUDIO_SUFFIXES, FileSource, existing_root, files_below, open_files
from rlcap.audio.records import ClipRecord
from rlcap.config.data import DataConfig
from rlcap.errors import DataError


def open_folder(config: DataConfig) -> FileSource:
    """Open every audio file below the root, in the order of their paths; the path is the clip id.

    Raises:
        DataError: the root is missing or holds no audio files that can be used.
    """
    root = existing_root(config)
    found = files_below(root, AUDIO_SUFFIXES)
    if not found.paths and not found.left_out.quarantined:
        raise DataError(
            f"{root} and its subfolders hold no audio files, such as {', '.join(sorted(AUDIO_SUFFIXES))}"
            f"{found.left_out.counted('; passed over: ')}"
        )
    return open_files(root, [ClipRecord(path, path) for path in found.paths], config, found.left_out)
