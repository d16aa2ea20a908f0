"""A table that lists recordings, one row a clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlcap.audio.files import FileSource, existing_root, open_files
from rlcap.audio.left_out import LeftOut
from rlcap.audio.records import ClipRecord
from rlcap.config.data import DataConfig
from rlcap.errors import DataError
from rlcap.tables.reading import read_rows
from rlcap.tables.rows import Row, sift

DEFAULT_MANIFEST = "manifest.csv"


def open_manifest(config: DataConfig) -> FileSource:
    """Open the recordings that a CSV, TSV, JSON lines or Parquet table lists; rows that cannot be used are left out.

    Raises:
        DataError: root or table are missing, the table is damaged or lacks a column, or none of its rows can be used.
    """
    root = existing_root(config)
    path = root / (config.manifest or DEFAULT_MANIFEST)
    optional = filter(None, [config.clip_id_column, config.caption_column, config.split_column])
    wanted = dict.fromkeys([config.path_column, *config.label_columns, *optional, *config.keep_rows])
    folder = f"{config.audio_dir}/" if config.audio_dir else ""
    rows = _Rows(config, folder)
    sifted = sift(read_rows(path, [*wanted]), rows.read, path.name)
    kept = [record for record in sifted.values if record is not None]
    if sifted.values and not kept:
        raise DataError(rows.nothing_kept(path))
    return open_files(root, kept, config, LeftOut.bad(sifted.quarantined))


class _Rows:
    """Reads the rows of a manifest, those apart that `keep_rows` leaves out."""

    def __init__(self, config: DataConfig, folder: str) -> None:
        self._config, self._folder = config, folder
        self._dropped: dict[str, set[str]] = {column: set() for column in config.keep_rows}

    def read(self, row: Row) -> ClipRecord | None:
        """Return the clip of a row; None for one that is not among those to keep."""
        config = self._config
        for column, values in config.keep_rows.items():
            word = row.word(column)
            if word not in values:
                self._dropped[column].add(word)
                return None
        path = self._folder + row.text(config.path_column)
        return ClipRecord(
            row.text(config.clip_id_column) if config.clip_id_column else path,
            path,
            tuple(row.texts(config.label_columns)),
            tuple(row.texts([config.caption_column] if config.caption_column else [])),
            row.word(config.split_column) if config.split_column else "",
        )

    def nothing_kept(self, path: Path) -> str:
        """Say what the column holds that leaves no row."""
        column, found = next((column, found) for column, found in self._dropped.items() if found)
        asked = self._config.keep_rows[column]
        return (
            f"data.keep_rows.{column} keeps no row of {path}: asked for {_quoted(asked)}, "
            f"found {_quoted(sorted(found)[:10])}"
        )


def _quoted(values: Sequence[str]) -> str:
    return ", ".join(map(repr, values))
