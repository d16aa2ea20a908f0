"""WebDataset shards: tar files in which the members of a clip share a key (`dog.wav`, `dog.json`, `dog.txt`).

The headers are read once; clips are then read at their offsets, in any order. Nothing is ever unpacked to disk.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np

from rlcap.audio.decoding import DecodeLimits, decode
from rlcap.audio.files import OTHER_ENDINGS, existing_root, files_below
from rlcap.audio.left_out import LeftOut
from rlcap.audio.records import ClipRecord, ClipTable, Unambiguous, unambiguous
from rlcap.audio.source import RecordedSource
from rlcap.audio.tar_index import TEXT, TarClip, TarIndex, index_tar
from rlcap.config.data import DataConfig
from rlcap.errors import ClipError, DataError, RowError
from rlcap.tables.json_values import check_names
from rlcap.tables.rows import Row
from rlcap.types import Clip, Quarantined

MAX_AUDIO_BYTES = 2**28
"""Largest audio member that is read into memory: 256 MiB."""


class ShardSource(RecordedSource):
    """Clips in uncompressed tar files, by offset."""

    def __init__(
        self, found: Unambiguous, clips: Sequence[tuple[Path, TarClip]], limits: DecodeLimits, left_out: LeftOut
    ) -> None:
        super().__init__(ClipTable.of(found.records), left_out)
        kept = [clips[position] for position in found.positions]
        numbers = {shard: number for number, shard in enumerate(dict.fromkeys(shard for shard, _ in kept))}
        self._shards = tuple(numbers)
        self._shard_of = np.array([numbers[shard] for shard, _ in kept], dtype=np.int64)
        self._offsets = np.array([clip.offset for _, clip in kept], dtype=np.int64)
        self._num_bytes = np.array([clip.num_bytes if clip.audio else -1 for _, clip in kept], dtype=np.int64)
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
    too, and a `txt` member is a caption. Clips with a member that cannot be used are left out, and so are shards.

    Raises:
        DataError: the root is missing or holds no shards, none of them can be used, or no JSON member holds a field
            that the settings name.
    """
    root = existing_root(config)
    files = files_below(root, frozenset({".tar"}))
    if not files.paths:
        raise DataError(f"{root} holds no .tar files; compressed shards must be unpacked to .tar first")
    optional = [config.clip_id_column, config.caption_column, config.split_column]
    wanted = [*config.label_columns, *filter(None, optional)]
    indexed, left_out = _index(root, files.paths, frozenset(wanted))
    left_out = files.left_out.without(OTHER_ENDINGS) + left_out
    seen = {name for _, index in indexed for name in index.seen}
    clips_found = [clip for _, index in indexed for clip in index.clips]
    if seen or (clips_found and not any(clip.broken for clip in clips_found)):
        check_names(f"JSON of the shards below {root}", sorted(seen), wanted)
    clips: list[tuple[Path, TarClip]] = []
    records: list[ClipRecord] = []
    bad: list[Quarantined] = []
    for name, index in indexed:
        for clip in index.clips:
            try:
                records.append(_record(clip, name, config))
                clips.append(((root / name).absolute(), clip))
            except RowError as error:
                bad.append(Quarantined(f"{name}/{clip.audio or clip.key}", str(error)))
    found = unambiguous(records)
    left_out += LeftOut.bad(bad) + found.left_out
    if not records or not found.records:
        left_out.refuse_nothing_left(root)
    return ShardSource(found, clips, DecodeLimits.of(config), left_out)


def _index(root: Path, names: Sequence[str], wanted: Set[str]) -> tuple[list[tuple[str, TarIndex]], LeftOut]:
    """Index the shards, and say what of them is left out. Raises DataError where the only one cannot be used."""
    indexed: list[tuple[str, TarIndex]] = []
    left_out = LeftOut()
    for name in names:
        try:
            index = index_tar(root / name, wanted)
        except DataError as error:
            if len(names) == 1:
                raise
            left_out += LeftOut.bad([Quarantined(name, f"bad shard: {error}")])
            continue
        indexed.append((name, index))
        damage = [Quarantined(name, f"damaged shard: {index.damage}")] if index.damage else []
        left_out += LeftOut(tuple(damage), index.passed_over)
    return indexed, left_out


def _record(clip: TarClip, shard: str, config: DataConfig) -> ClipRecord:
    """Say what is known of a clip. Raises RowError where a member cannot be used."""
    if clip.broken:
        raise RowError(clip.broken)
    row = Row(0, clip.json, clip.fields)
    key = f"{shard.removesuffix('.tar')}/{clip.key}"
    try:
        return ClipRecord(
            row.text_or_empty(config.clip_id_column) or key,
            f"{shard}/{clip.audio or clip.key}",
            tuple(row.texts(config.label_columns)),
            tuple(row.texts([config.caption_column, TEXT])),
            row.word(config.split_column),
        )
    except RowError as error:
        raise RowError(f"bad member: {clip.json or clip.key}, {error}") from error
