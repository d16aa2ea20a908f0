"""Parquet files with the encoded audio in a column of bytes, or of `struct<bytes, path>` as Hugging Face writes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlcap.audio.decoding import DecodeLimits, decode
from rlcap.audio.files import existing_root, files_below, path_below
from rlcap.audio.records import ClipTable
from rlcap.audio.source import RecordedSource
from rlcap.audio.tables import check_columns, filled_texts, read_columns, text_lists, texts
from rlcap.config.data import DataConfig
from rlcap.errors import ClipError, DataError
from rlcap.types import Clip

MAX_ROW_GROUP_BYTES = 2**30
"""Largest row group, uncompressed, that is read into memory: 1 GiB."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of a Parquet file that can only be read together."""

    file: Path
    index: int
    num_rows: int


class ParquetSource(RecordedSource):
    """Clips in Parquet files; keeps the row group that was read last, so that neighbours cost nothing more."""

    def __init__(
        self, root: Path, groups: Sequence[RowGroup], audio_column: str, records: ClipTable, limits: DecodeLimits
    ) -> None:
        super().__init__(records)
        self._root = root.resolve()
        self._groups = tuple(groups)
        self._ends = np.cumsum([group.num_rows for group in groups])
        self._audio_column = audio_column
        self._limits = limits
        self._latest: tuple[int, pa.ChunkedArray | None] = (-1, None)

    def clip(self, position: int) -> Clip:
        """Read and decode the clip at `position`; raises ClipError, IndexError, and DataError for a damaged file."""
        record = self.records[position]
        group = int(np.searchsorted(self._ends, position, side="right"))
        first = int(self._ends[group]) - self._groups[group].num_rows
        cell = self._read(group)[position - first].as_py()
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is not None:
            return decode(content, record.clip_id, self._limits)
        if not path:
            raise ClipError("no audio in this row")
        return decode(path_below(self._root, path), record.clip_id, self._limits)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the audio behind when travelling to another process."""
        return {**self.__dict__, "_latest": (-1, None)}

    def _read(self, number: int) -> pa.ChunkedArray:
        latest, column = self._latest
        if number != latest:
            group = self._groups[number]
            try:
                column = pq.ParquetFile(group.file).read_row_group(group.index, [self._audio_column])[0]
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"row group {group.index} of {group.file} cannot be read: {error}") from error
            self._latest = (number, column)
        return column


def open_parquet(config: DataConfig) -> ParquetSource:
    """Open every Parquet file below the root; a clip's id is its file and row, or column `clip_id_column`.

    Raises:
        DataError: the root is missing or holds no Parquet files, one is damaged, lacks a column or has row groups too
            large to read, or two clips share an id.
    """
    root = existing_root(config)
    names = files_below(root, frozenset({".parquet"}))
    if not names:
        raise DataError(f"{root} holds no .parquet files")
    groups = [group for name in names for group in _row_groups(root / name, config.audio_column)]
    columns: tuple[list[Any], ...] = ([], [], [], [], [])
    for name in names:
        for column, values in zip(columns, _describe(root, name, config), strict=True):
            column.extend(values)
    records = ClipTable.from_columns(*columns, origin=str(root))
    return ParquetSource(root, groups, config.audio_column, records, DecodeLimits.of(config))


def _row_groups(file: Path, audio_column: str) -> list[RowGroup]:
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error
    check_columns(file, parquet.schema_arrow.names, [audio_column])
    kind = parquet.schema_arrow.field(audio_column).type
    content = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(content) or pa.types.is_large_binary(content)):
        raise DataError(f"column {audio_column!r} of {file} must hold encoded audio as bytes, got {kind}")
    groups = [parquet.metadata.row_group(index) for index in range(parquet.num_row_groups)]
    if any(group.total_byte_size > MAX_ROW_GROUP_BYTES for group in groups):
        raise DataError(
            f"{file} has row groups of more than {MAX_ROW_GROUP_BYTES >> 20} MiB, which must be read whole for one "
            "clip: write it again with row_group_size=16"
        )
    return [RowGroup(file, index, group.num_rows) for index, group in enumerate(groups)]


def _describe(root: Path, name: str, config: DataConfig) -> tuple[Sequence[Any], ...]:
    """Return clip ids, paths, labels, captions and splits of one file."""
    path = root / name
    optional = [config.clip_id_column, config.caption_column, config.split_column]
    wanted = [*config.label_columns, *filter(None, optional)]
    num_rows = pq.read_metadata(path).num_rows
    rows = [f"{name.removesuffix('.parquet')}:{row}" for row in range(num_rows)]
    if not wanted or not num_rows:
        nothing: list[list[str]] = [[]] * num_rows
        return rows, rows, nothing, nothing, [""] * num_rows
    table = _with_class_names(read_columns(path, wanted))
    return (
        filled_texts(path, table, config.clip_id_column) if config.clip_id_column else rows,
        rows,
        text_lists(table, config.label_columns),
        text_lists(table, [config.caption_column] if config.caption_column else []),
        texts(table, config.split_column) if config.split_column else [""] * num_rows,
    )


def _with_class_names(table: pa.Table) -> pa.Table:
    """Put names in place of the numbers of Hugging Face's `ClassLabel` columns, whose names the schema holds."""
    described = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    for number, column in enumerate(table.column_names):
        feature = features.get(column, {})
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            names = pa.array(feature["names"], pa.string())
            table = table.set_column(number, column, names.take(table[column].combine_chunks()))
    return table
