"""A table that lists recordings, one row a clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from rlcap.audio.decoding import DecodeLimits
from rlcap.audio.files import FileSource, existing_root
from rlcap.audio.records import ClipTable
from rlcap.audio.tables import filled_texts, read_columns, text_lists, texts
from rlcap.config.data import DataConfig
from rlcap.errors import DataError

DEFAULT_MANIFEST = "manifest.csv"


def open_manifest(config: DataConfig) -> FileSource:
    """Open the recordings that a CSV, TSV, JSON lines or Parquet table lists.

    Raises:
        DataError: root or table are missing, the table is empty, damaged, lacks a column, has a row without a path,
            or gives one id to two clips.
    """
    root = existing_root(config)
    path = root / (config.manifest or DEFAULT_MANIFEST)
    optional = filter(None, [config.clip_id_column, config.caption_column, config.split_column])
    wanted = [config.path_column, *config.label_columns, *optional, *config.keep_rows]
    table = _kept(read_columns(path, wanted), config, path)
    folder = f"{config.audio_dir}/" if config.audio_dir else ""
    paths = [folder + name for name in filled_texts(path, table, config.path_column)]
    records = ClipTable.from_columns(
        filled_texts(path, table, config.clip_id_column) if config.clip_id_column else paths,
        paths,
        text_lists(table, config.label_columns),
        text_lists(table, [config.caption_column] if config.caption_column else []),
        texts(table, config.split_column) if config.split_column else [""] * len(paths),
        origin=str(path),
    )
    return FileSource(root, records, DecodeLimits.of(config))


def _kept(table: pa.Table, config: DataConfig, path: Path) -> pa.Table:
    for column, values in config.keep_rows.items():
        kept = table.filter(pc.is_in(table[column].cast(pa.string()), pa.array(values, pa.string())))
        if not kept.num_rows:
            found = sorted(set(texts(table, column)))[:10]
            raise DataError(
                f"data.keep_rows.{column} keeps no row of {path}: asked for {_quoted(values)}, found {_quoted(found)}"
            )
        table = kept
    return table


def _quoted(values: Sequence[str]) -> str:
    return ", ".join(map(repr, values))
