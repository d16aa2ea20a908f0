"""Parquet files with the encoded audio in a column of bytes, or of `struct<bytes, path>` as Hugging Face writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from rlcap.audio.decoding import DecodeLimits, decode
from rlcap.audio.files import OTHER_ENDINGS, existing_below, existing_root, files_below
from rlcap.audio.left_out import LeftOut
from rlcap.audio.records import ClipRecord, ClipTable, Unambiguous, unambiguous
from rlcap.audio.source import RecordedSource
from rlcap.config.data import DataConfig
from rlcap.errors import ClipError, DataError, RowError
from rlcap.tables.json_values import check_names, parse_json
from rlcap.tables.reading import read_rows
from rlcap.tables.rows import Row, described, sift, whole_number
from rlcap.types import Clip, Quarantined

MAX_ROW_GROUP_BYTES = 2**30
"""Largest row group, uncompressed, that is read into memory: 1 GiB."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of a Parquet file that can only be read together."""

    file: Path
    index: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class DescribedFile:
    """One Parquet file, and what it says of its clips."""

    groups: tuple[RowGroup, ...]
    records: list[ClipRecord]
    """Of the rows that can be used."""
    rows: Int64[np.ndarray, " record"]
    """The row of each record in the file."""
    quarantined: list[Quarantined]


class ParquetSource(RecordedSource):
    """Clips in Parquet files; keeps the row group that was read last, so that neighbours cost nothing more."""

    def __init__(
        self,
        root: Path,
        files: Sequence[DescribedFile],
        config: DataConfig,
        found: Unambiguous,
        left_out: LeftOut,
    ) -> None:
        super().__init__(ClipTable.of(found.records), left_out)
        self._root = root.resolve()
        self._groups = tuple(group for file in files for group in file.groups)
        self._ends = np.cumsum([group.num_rows for group in self._groups])
        self._rows = _rows_of_clips(files)[found.positions]
        self._audio_column = config.audio_column
        self._limits = DecodeLimits.of(config)
        self._latest: tuple[int, pa.ChunkedArray | None] = (-1, None)

    def clip(self, position: int) -> Clip:
        """Read and decode the clip at `position`; raises ClipError and IndexError."""
        record = self.records[position]
        row = int(self._rows[position])
        group = int(np.searchsorted(self._ends, row, side="right"))
        first = int(self._ends[group]) - self._groups[group].num_rows
        content, path = _audio(self._read(group)[row - first])
        if content is not None:
            return decode(content, record.clip_id, self._limits)
        if not path:
            raise ClipError("no audio in this row")
        return decode(existing_below(self._root, path), record.clip_id, self._limits)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the audio behind when travelling to another process."""
        return {**self.__dict__, "_latest": (-1, None)}

    def _read(self, number: int) -> pa.ChunkedArray:
        latest, column = self._latest
        if number != latest:
            group = self._groups[number]
            try:
                column = pq.ParquetFile(group.file).read_row_group(group.index, [self._audio_column])[0]
            except (pa.ArrowException, OSError) as error:
                raise ClipError(f"row group cannot be read: {group.index} of {group.file.name}, {error}") from error
            self._latest = (number, column)
        return column


def open_parquet(config: DataConfig) -> ParquetSource:
    """Open every Parquet file below the root; a clip's id is its file and row, or column `clip_id_column`.

    Rows and files that cannot be used are left out.

    Raises:
        DataError: the root is missing or holds no Parquet files, or none of them can be used: they are damaged, lack a
            column, or have row groups too large to read.
    """
    root = existing_root(config)
    names = files_below(root, frozenset({".parquet"}))
    if not names.paths:
        raise DataError(f"{root} holds no .parquet files")
    files: list[DescribedFile] = []
    bad: list[Quarantined] = []
    for name in names.paths:
        try:
            files.append(_describe(root, name, config))
        except DataError as error:
            if len(names.paths) == 1:
                raise
            bad.append(Quarantined(name, f"bad file: {error}"))
    bad += [one for file in files for one in file.quarantined]
    found = unambiguous([record for file in files for record in file.records])
    left_out = names.left_out.without(OTHER_ENDINGS) + LeftOut.bad(bad) + found.left_out
    if not found.records:
        left_out.refuse_nothing_left(root)
    return ParquetSource(root, files, config, found, left_out)


def _audio(cell: pa.Scalar) -> tuple[bytes | None, str | None]:
    """Return the bytes and the path of a cell. Raises ClipError for a path that is no text."""
    try:
        value = cell.as_py()
    except UnicodeDecodeError as error:
        raise ClipError("not a path: it is not UTF-8") from error
    if not isinstance(value, dict):
        return value, None
    path = value.get("path")
    if path is not None and not isinstance(path, str):
        raise ClipError(f"not a path: {described(path)}")
    return value.get("bytes"), path


def _rows_of_clips(files: Sequence[DescribedFile]) -> Int64[np.ndarray, " record"]:
    """The row of each clip, counted through all files."""
    sizes = [sum(group.num_rows for group in file.groups) for file in files]
    firsts = np.cumsum([0, *sizes[:-1]])
    return np.concatenate([file.rows + first for file, first in zip(files, firsts, strict=True)])


def _row_groups(file: Path, audio_column: str) -> tuple[RowGroup, ...]:
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error
    check_names(file, parquet.schema_arrow.names, [audio_column])
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
    return tuple(RowGroup(file, index, group.num_rows) for index, group in enumerate(groups))


def _describe(root: Path, name: str, config: DataConfig) -> DescribedFile:
    """Say what one file knows of its clips. Raises DataError where it cannot be used as a whole."""
    path = root / name
    groups = _row_groups(path, config.audio_column)
    num_rows = sum(group.num_rows for group in groups)
    stem = name.removesuffix(".parquet")
    optional = [config.clip_id_column, config.caption_column, config.split_column]
    wanted = list(dict.fromkeys([*config.label_columns, *filter(None, optional)]))
    if not wanted or not num_rows:
        records = [ClipRecord(f"{stem}:{row}", f"{stem}:{row}") for row in range(num_rows)]
        return DescribedFile(groups, records, np.arange(num_rows), [])
    class_names = _class_names(path)

    def read(given: Row) -> tuple[int, ClipRecord]:
        row = _with_class_names(given, class_names)
        place = f"{stem}:{row.number - 1}"
        record = ClipRecord(
            row.text(config.clip_id_column) if config.clip_id_column else place,
            place,
            tuple(row.texts(config.label_columns)),
            tuple(row.texts([config.caption_column] if config.caption_column else [])),
            row.word(config.split_column) if config.split_column else "",
        )
        return row.number - 1, record

    sifted = sift(read_rows(path, wanted), read, name)
    return DescribedFile(
        groups,
        [record for _, record in sifted.values],
        np.array([number for number, _ in sifted.values], dtype=np.int64),
        sifted.quarantined,
    )


def _class_names(path: Path) -> dict[str, list[object]]:
    """The names of the numbers of Hugging Face's `ClassLabel` columns, which the schema holds."""
    described_by = (pq.read_schema(path).metadata or {}).get(b"huggingface", b"{}")
    try:
        features = parse_json(described_by.decode())["info"]["features"]
        return {
            column: list(feature["names"])
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}  # described by no Hugging Face: the numbers are refused where labels must be


def _with_class_names(row: Row, class_names: Mapping[str, Sequence[object]]) -> Row:
    """Put names in place of class numbers; -1 stands for no class. Raises RowError for a number without a name."""
    cells = dict(row.cells)
    for column, names in class_names.items():
        number = whole_number(cells.get(column))
        if number is None:
            continue
        if not -1 <= number < len(names):
            raise RowError(f"column {column!r}: expected the number of one of {len(names)} classes, found {number}")
        cells[column] = names[number] if number >= 0 else None
    return replace(row, cells=cells)
