"""The layouts of two captioning data sets: Clotho (Drossos et al., 2020) and AudioCaps (Kim et al., 2019)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from rlcap.audio.files import AUDIO_SUFFIXES, OTHER_ENDINGS, FileSource, existing_root, files_below, open_files
from rlcap.audio.left_out import LeftOut
from rlcap.audio.records import ClipRecord
from rlcap.config.data import DataConfig
from rlcap.errors import DataError
from rlcap.tables.reading import read_rows
from rlcap.tables.rows import Row, sift
from rlcap.types import Quarantined

Value = TypeVar("Value")

CLOTHO_CAPTIONS = [f"caption_{number}" for number in range(1, 6)]
CLOTHO_TABLES = "clotho_captions_*.csv"
AUDIOCAPS_TABLES = "*.csv"
AUDIOCAPS_CLIP_S = 10
SAME_NAME = "files of the same name as another"


def open_clotho(config: DataConfig) -> FileSource:
    """Open `clotho_captions_<split>.csv` tables (`manifest` may be a pattern) and the audio in `<split>` folders.

    A table whose folder is not there has its audio in the root itself. The record's split is that of the table.

    Raises:
        DataError: root or tables are missing, damaged, lack a column, or none of their rows can be used.
    """
    root = existing_root(config)
    records: list[ClipRecord] = []
    tables = _Tables(root, config.manifest or CLOTHO_TABLES)
    for path in tables.paths:
        split = path.stem.removeprefix("clotho_captions_")
        folder = f"{split}/" if (root / split).is_dir() else ""

        def read(row: Row, folder: str = folder, split: str = split) -> ClipRecord:
            name = folder + row.text("file_name")
            return ClipRecord(name, name, captions=tuple(row.texts(CLOTHO_CAPTIONS)), split=split)

        records += tables.sift(path, ["file_name", *CLOTHO_CAPTIONS], read)
    return open_files(root, records, config, LeftOut.bad(tables.quarantined))


@dataclass(frozen=True, slots=True)
class _Caption:
    """One row of AudioCaps."""

    youtube_id: str
    start: str
    texts: list[str]

    @classmethod
    def of(cls, row: Row) -> _Caption:
        return cls(row.text("youtube_id"), row.word("start_time") or row.text("start_time"), row.texts(["caption"]))


def open_audiocaps(config: DataConfig) -> FileSource:
    """Open `youtube_id, start_time, caption` tables (`manifest` may be a pattern) and audio files named by id.

    Rows of one clip become one record with all their captions. Files may be named `<id>`, `Y<id>`, or either with
    `_<start>` or `_<start>_<end>` behind it, in any subfolder; a clip without a file is quarantined when read. The
    clip id is the video's, with `_<start>` behind it where the tables know several clips of the video. The record's
    split is the name of its table.

    Raises:
        DataError: root or tables are missing, damaged, lack a column, or none of their rows can be used, or no clip
            has a file.
    """
    root = existing_root(config)
    clips: dict[tuple[str, str], list[str]] = {}
    splits: list[str] = []
    tables = _Tables(root, config.manifest or AUDIOCAPS_TABLES)
    for path in tables.paths:
        for caption in tables.sift(path, ["youtube_id", "start_time", "caption"], _Caption.of):
            clips.setdefault((caption.youtube_id, caption.start), []).extend(caption.texts)
        splits += [path.stem] * (len(clips) - len(splits))
    files, left_out = _by_stem(root)
    left_out = LeftOut.bad(tables.quarantined) + left_out
    if not clips:
        left_out.refuse_nothing_left(root)
    paths = [_find(files, youtube_id, start) for youtube_id, start in clips]
    if not any(paths):
        youtube_id, start = next(iter(clips))
        raise DataError(f"no audio file below {root} is named by a youtube_id, such as {youtube_id}_{start}.wav")
    # The video alone, wherever that will do: judgements of AudioCaps captions often name no start time.
    clips_of_video = Counter(youtube_id for youtube_id, _ in clips)
    records = [
        ClipRecord(
            youtube_id if clips_of_video[youtube_id] == 1 else f"{youtube_id}_{start}",
            path or f"{youtube_id}_{start}.wav",
            captions=tuple(captions),
            split=split,
        )
        for ((youtube_id, start), captions), path, split in zip(clips.items(), paths, splits, strict=True)
    ]
    return open_files(root, records, config, left_out)


def _by_stem(root: Path) -> tuple[dict[str, str], LeftOut]:
    """Audio files by their names without an ending; the last of those with one name, the others counted."""
    found = files_below(root, AUDIO_SUFFIXES)
    files = {PurePosixPath(path).stem: path for path in found.paths}
    num_shadowed = len(found.paths) - len(files)
    return files, found.left_out.without(OTHER_ENDINGS) + LeftOut(passed_over={SAME_NAME: num_shadowed})


class _Tables:
    """The tables of a data set, and what of them cannot be used."""

    def __init__(self, root: Path, pattern: str) -> None:
        # A name that fits none, so that reading it says what is there.
        self.paths = sorted(root.glob(pattern)) or [root / pattern]
        self.quarantined: list[Quarantined] = []

    def sift(self, path: Path, columns: Sequence[str], read: Callable[[Row], Value]) -> list[Value]:
        """Read the rows of a table that can be used. Raises DataError where the only table is none of these."""
        try:
            sifted = sift(read_rows(path, columns), read, path.name)
        except DataError as error:
            if len(self.paths) == 1:
                raise
            self.quarantined.append(Quarantined(path.name, f"bad table: {error}"))
            return []
        self.quarantined += sifted.quarantined
        return sifted.values


def _find(files: dict[str, str], youtube_id: str, start: str) -> str:
    """Return the path of a clip's file, its start time named or not; empty where there is none."""
    whole = start.removesuffix(".0")
    ends = [f"_{start}", f"_{whole}", ""]
    if whole.isdecimal():
        ends.insert(0, f"_{whole}_{int(whole) + AUDIOCAPS_CLIP_S}")
    stems = [f"{prefix}{youtube_id}{end}" for end in ends for prefix in ("", "Y")]
    return next((files[stem] for stem in stems if stem in files), "")
