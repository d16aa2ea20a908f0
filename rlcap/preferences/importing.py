"""Preference pairs from files of other layouts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlcap.errors import DataError
from rlcap.preferences.pairs import PreferencePair

_REQUIRED = ("clip_id", "caption_a", "caption_b")
_PREFERRED = {"a": 1, "b": -1, "tie": 0, "1": 1, "-1": -1, "0": 0}
_FENSE_PREFIXES = ("HC", "HI", "HM", "MM")

Row = Mapping[str, Any]


def import_pairs(path: Path) -> list[PreferencePair]:
    """Read pairs from a table (CSV, JSONL, Parquet) or from the JSON of FENSE (Zhou et al., 2022).

    A table has the columns clip_id, caption_a, caption_b, and either `votes` (1 for A, -1 for B, 0 for neither, in a
    list or parted by spaces) or `preferred` (a, b or tie), one row an annotator; rows of one pair become one pair.
    A table with the columns chosen and rejected, and clip_id or audio, is read as well: chosen is caption A.

    Raises:
        DataError: the file is missing, has an unknown ending, or holds a row that is no preference; names the row.
    """
    readers: dict[str, Callable[[Path], list[PreferencePair]]] = {
        ".json": _read_fense,
        ".csv": lambda path: _from_rows(_read_csv(path), path),
        ".jsonl": lambda path: _from_rows(_read_jsonl(path), path),
        ".parquet": lambda path: _from_rows(pq.read_table(path).to_pylist(), path),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"preferences come as {', '.join(readers)}; got {path}")
    try:
        pairs = reader(path)
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, pa.ArrowException) as error:
        raise DataError(f"the preferences in {path} cannot be read: {error}") from error
    if not pairs:
        raise DataError(f"{path} holds no preferences")
    return pairs


def _from_rows(rows: Iterable[Row], path: Path) -> list[PreferencePair]:
    """Turn rows into pairs, and the rows of one pair into one."""
    votes_by_pair: dict[tuple[str, ...], list[int]] = {}
    for number, given in enumerate(rows, start=1):
        row = _from_chosen(given) if "chosen" in given else given
        missing = [name for name in _REQUIRED if not row.get(name)]
        if missing:
            raise DataError(
                f"{path}, row {number}: {', '.join(missing)} must hold text; columns here: {', '.join(row)}"
            )
        key = tuple(str(row.get(name) or "") for name in (*_REQUIRED, "source_a", "source_b", "category"))
        votes_by_pair.setdefault(key, []).extend(_votes(row, f"{path}, row {number}"))
    return [
        PreferencePair(clip_id, caption_a, caption_b, tuple(votes), source_a, source_b, category)
        for (clip_id, caption_a, caption_b, source_a, source_b, category), votes in votes_by_pair.items()
    ]


def _from_chosen(row: Row) -> Row:
    """Name the columns of a table of chosen and rejected captions as those of pairs; without votes, A has one."""
    named = {**row, "clip_id": row.get("clip_id") or row.get("audio")}
    named |= {"caption_a": row["chosen"], "caption_b": row.get("rejected")}
    return named if row.get("votes") is not None else {**named, "votes": [1]}


def _votes(row: Row, where: str) -> list[int]:
    given = row.get("votes")
    if given is None:
        given = [_PREFERRED.get(str(row.get("preferred")).strip().lower())]
    elif isinstance(given, str):
        given = [_PREFERRED.get(vote) for vote in given.replace(",", " ").strip(" []").split()]
    if not isinstance(given, list) or not given or any(vote not in (1, 0, -1) for vote in given):
        raise DataError(
            f"{where}: give each vote as 1, -1 or 0 in `votes`, or as a, b or tie in `preferred`; "
            f"got votes={row.get('votes')!r}, preferred={row.get('preferred')!r}"
        )
    return given


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _read_jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
        yield row


def _read_fense(path: Path) -> list[PreferencePair]:
    """Read FENSE's list of clips: under HC, HI, HM, MM_1 ... [caption, caption, source, source, ..., votes]."""
    clips = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(clips, list) or not all(isinstance(clip, dict) for clip in clips):
        raise DataError(f"{path} must hold a JSON list of clips as FENSE has them; other layouts come as CSV or JSONL")
    pairs = []
    for number, clip in enumerate(clips, start=1):
        clip_id = clip.get("audio_id") or clip.get("raw_name")
        if not clip_id:
            raise DataError(f"{path}, clip {number}: audio_id or raw_name must say which clip was judged, got neither")
        for key, judged in clip.items():
            category = key.split("_")[0]
            if category not in _FENSE_PREFIXES or judged is None:
                continue
            try:
                caption_a, caption_b, source_a, source_b, *_, votes = judged
                pair = PreferencePair(
                    str(clip_id), caption_a, caption_b, tuple(votes), str(source_a), str(source_b), category
                )
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}, clip {number}, {key}: {error}") from error
            pairs.append(pair)
    return pairs
