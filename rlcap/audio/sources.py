"""The source that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable

from rlcap.audio.folder import open_folder
from rlcap.audio.layouts import open_audiocaps, open_clotho
from rlcap.audio.manifest import open_manifest
from rlcap.audio.parquet import open_parquet
from rlcap.audio.source import RecordedSource
from rlcap.audio.webdataset import open_webdataset
from rlcap.config.data import DataConfig, SourceKind
from rlcap.errors import DataError

OPENERS: dict[SourceKind, Callable[[DataConfig], RecordedSource]] = {
    SourceKind.folder: open_folder,
    SourceKind.manifest: open_manifest,
    SourceKind.webdataset: open_webdataset,
    SourceKind.parquet: open_parquet,
    SourceKind.clotho: open_clotho,
    SourceKind.audiocaps: open_audiocaps,
}
"""How each layout of recordings is opened; soundscapes are made, not opened."""


def open_source(config: DataConfig) -> RecordedSource:
    """Open recordings on disk, of every split.

    Raises:
        DataError: the source cannot be used as a whole.
        ValueError: the kind is not one of recordings.
    """
    if config.kind is SourceKind.none:
        raise DataError(
            "data.kind is none, so there is no audio to open: only `rlcap reward fit` does without; "
            "give data.kind and data.root"
        )
    opener = OPENERS.get(config.kind)
    if opener is None:
        raise ValueError(f"kind must be one of {[kind.value for kind in OPENERS]}, got {config.kind.value}")
    return opener(config)
