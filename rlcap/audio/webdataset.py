"""WebDataset shards: tar files in which the members of a clip share a key (`dog.wav`, `dog.json`, `dog.txt`).

The headers are read once; clips are then read at their offsets, in any order. Nothing is ever unpacked to disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlcap.audio.decoding import DecodeLimits, decode
from rlcap.audio.files import existing_root, files_below
from rlcap.audio.records import ClipTable
from rlcap.audio.source import RecordedSource
from rlcap.audio.tables import check_columns, flat_texts
from rlcap.audio.tar_index import TarClip, index_tar
from rlcap.config.data import DataConfig
from rlcap.errors import ClipError, DataError
from rlcap.types import Clip

MAX_AUDIO_BYTES = 2**28
"""Largest audio member that is read into memory: 256 MiB."""


class ShardSource(RecordedSource):
    """Clips in uncompressed tar files, by offset."""

    def __init__(
        self, shards: Sequence[tuple[Path, Sequence[TarClip]]], records: ClipTable, limits: DecodeLimits
    ) -> None:
        super().__init__(records)
        clips = [clip for _, members in shards for clip in members]
        self._shards = tuple(path for path, _ in shards)
        self._shard_of = np.repeat(np.arange(len(shards)), [len(members) for _, members in shards])
        self._offsets = np.array([clip.offset for clip in clips], dtype=np.int64)
        self._num_bytes = np.array([clip.num_bytes if clip.audio else -1 for clip in clips], dtype=np.int64)
        self._limits = limits

    def clip(self, position: int) -> Clip:
        """Read and decode the clip at `position`; raises ClipError and IndexError."""
        record = self.records[position]
        num_bytes = int(self._num_bytes[position])
        if num_bytes < 0:
            raise ClipError("no audio among the members of this key")
        if num_bytes > MAX_AUDIO_BYTES:
            raise ClipError(f"file too large: {num_bytes} bytes, the limit is {MAX_AUDIO_BYTES}")
        try:
            with self._shards[self._shard_of[position]].open("rb", buffering=0) as file:
                file.seek(int(self._offsets[position]))
                audio = file.read(num_bytes)
        except OSError as error:
            raise ClipError(f"shard cannot be read: {error.strerror}") from error
        return decode(audio, record.clip_id, self._limits)


def open_webdataset(config: DataConfig) -> ShardSource:
    """Index every tar file below the root.

    A clip's id is its shard and key, or the JSON field `clip_id_column`; labels, captions and split are JSON fields
    too, and a `txt` member is a caption.

    Raises:
        DataError: the root is missing or holds no shards, a shard is damaged or compressed, no JSON member holds a
            field that the settings name, or two clips share an id.
    """
    root = existing_root(config)
    names = files_below(root, frozenset({".tar"}))
    if not names:
        raise DataError(f"{root} holds no .tar files; compressed shards must be unpacked to .tar first")
    optional = [config.clip_id_column, config.caption_column, config.split_column]
    wanted = [*config.label_columns, *filter(None, optional)]
    seen: set[str] = set()
    shards = [((root / name).absolute(), index_tar(root / name, set(wanted), seen)) for name in names]
    check_columns(f"JSON of the shards below {root}", sorted(seen), wanted)
    clips = [(name, clip) for name, (_, members) in zip(names, shards, strict=True) for clip in members]
    keys = [f"{name.removesuffix('.tar')}/{clip.key}" for name, clip in clips]
    records = ClipTable.from_columns(
        [_field(clip, config.clip_id_column) or key for key, (_, clip) in zip(keys, clips, strict=True)],
        [f"{name}/{clip.audio or clip.key}" for name, clip in clips],
        [flat_texts(clip.fields.get(column) for column in config.label_columns) for _, clip in clips],
        [flat_texts([clip.fields.get(config.caption_column), clip.text]) for _, clip in clips],
        [_field(clip, config.split_column) for _, clip in clips],
        origin=str(root),
    )
    return ShardSource(shards, records, DecodeLimits.of(config))


def _field(clip: TarClip, name: str) -> str:
    value = clip.fields.get(name)
    return "" if value is None else str(value)
