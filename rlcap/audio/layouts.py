"""The layouts of two captioning data sets: Clotho (Drossos et al., 2020) and AudioCaps (Kim et al., 2019)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

from rlcap.audio.decoding import DecodeLimits
from rlcap.audio.files import AUDIO_SUFFIXES, FileSource, existing_root, files_below
from rlcap.audio.records import ClipTable
from rlcap.audio.tables import filled_texts, read_columns, text_lists
from rlcap.config.data import DataConfig
from rlcap.errors import DataError

CLOTHO_CAPTIONS = [f"caption_{number}" for number in range(1, 6)]
CLOTHO_TABLES = "clotho_captions_*.csv"
AUDIOCAPS_TABLES = "*.csv"
AUDIOCAPS_CLIP_S = 10


def open_clotho(config: DataConfig) -> FileSource:
    """Open `clotho_captions_<split>.csv` tables (`manifest` may be a pattern) and the audio in `<split>` folders.

    A table whose folder is not there has its audio in the root itself. The record's split is that of the table.

    Raises:
        DataError: root or tables are missing, empty, damaged, or lack a column.
    """
    root = existing_root(config)
    ids: list[str] = []
    captions: list[list[str]] = []
    splits: list[str] = []
    for path in _tables(root, config.manifest or CLOTHO_TABLES):
        table = read_columns(path, ["file_name", *CLOTHO_CAPTIONS])
        split = path.stem.removeprefix("clotho_captions_")
        folder = f"{split}/" if (root / split).is_dir() else ""
        ids += [folder + name for name in filled_texts(path, table, "file_name")]
        captions += text_lists(table, CLOTHO_CAPTIONS)
        splits += [split] * table.num_rows
    records = ClipTable.from_columns(ids, ids, [[]] * len(ids), captions, splits, origin=str(root))
    return FileSource(root, records, DecodeLimits.of(config))


def open_audiocaps(config: DataConfig) -> FileSource:
    """Open `youtube_id, start_time, caption` tables (`manifest` may be a pattern) and audio files named by id.

    Rows of one clip become one record with all their captions. Files may be named `<id>`, `Y<id>`, or either with
    `_<start>` or `_<start>_<end>` behind it, in any subfolder; a clip without a file is quarantined when read. The
    clip id is the video's, with `_<start>` behind it where the tables know several clips of the video. The record's
    split is the name of its table.

    Raises:
        DataError: root or tables are missing, empty, damaged, or lack a column, or no clip has a file.
    """
    root = existing_root(config)
    clips: dict[tuple[str, str], list[str]] = {}
    splits: list[str] = []
    for path in _tables(root, config.manifest or AUDIOCAPS_TABLES):
        table = read_columns(path, ["youtube_id", "start_time", "caption"])
        starts = filled_texts(path, table, "start_time")
        rows = zip(filled_texts(path, table, "youtube_id"), starts, text_lists(table, ["caption"]), strict=True)
        for youtube_id, start, captions in rows:
            clips.setdefault((youtube_id, start), []).extend(captions)
        splits += [path.stem] * (len(clips) - len(splits))
    files = {PurePosixPath(path).stem: path for path in files_below(root, AUDIO_SUFFIXES)}
    paths = [_find(files, youtube_id, start) for youtube_id, start in clips]
    if not any(paths):
        youtube_id, start = next(iter(clips))
        raise DataError(f"no audio file below {root} is named by a youtube_id, such as {youtube_id}_{start}.wav")
    # The video alone, wherever that will do: judgements of AudioCaps captions often name no start time.
    clips_of_video = Counter(youtube_id for youtube_id, _ in clips)
    records = ClipTable.from_columns(
        [youtube_id if clips_of_video[youtube_id] == 1 else f"{youtube_id}_{start}" for youtube_id, start in clips],
        [path or f"{youtube_id}_{start}.wav" for path, (youtube_id, start) in zip(paths, clips, strict=True)],
        [[]] * len(clips),
        list(clips.values()),
        splits,
        origin=str(root),
    )
    return FileSource(root, records, DecodeLimits.of(config))


def _tables(root: Path, pattern: str) -> list[Path]:
    """Return the tables that the pattern fits; a name that fits none, so that reading it says what is there."""
    return sorted(root.glob(pattern)) or [root / pattern]


def _find(files: dict[str, str], youtube_id: str, start: str) -> str:
    """Return the path of a clip's file, its start time named or not; empty where there is none."""
    whole = start.removesuffix(".0")
    ends = [f"_{start}", f"_{whole}", ""]
    if whole.isdecimal():
        ends.insert(0, f"_{whole}_{int(whole) + AUDIOCAPS_CLIP_S}")
    stems = [f"{prefix}{youtube_id}{end}" for end in ends for prefix in ("", "Y")]
    return next((files[stem] for stem in stems if stem in files), "")
