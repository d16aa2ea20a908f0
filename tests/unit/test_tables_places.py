"""Every place that reads what users bring, held against every kind of value that is of another type."""

import io
import json
import math
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcap.audio.sources import open_source
from rlcap.config.data import DataConfig, SourceKind
from rlcap.errors import DataError
from rlcap.pipeline.caption_scores import read_captions
from rlcap.preferences.importing import import_pairs
from rlcap.preferences.pairs import SCHEMA, sift_pairs
from rlcap.types import Quarantined

Rows = list[dict[str, object]]
Opened = tuple[int, Sequence[Quarantined]]
"""How many rows can be used, and those that cannot."""

NOT_TEXT = {
    "a boolean": (True, "the boolean true"),
    "a number": (7, "the number 7"),
    "a fraction": (1.5, "the number 1.5"),
    "a structure": ({"a": 1}, "a structure of 'a'"),
    "a list of lists": ([["x"]], "a list of 1"),
}
NOTHING = {
    "null": (None, "nothing"),
    "NaN": (math.nan, "NaN"),
    "empty text": ("", "nothing"),
    "blanks": (" \t", "nothing but blanks"),
}
NO_WORD = {kind: NOT_TEXT[kind] for kind in ("a fraction", "a structure", "a list of lists")}
NO_VOTE = {
    "null": (None, "found neither"),
    "a boolean": (True, "the boolean true"),
    "another number": (7, "found the number 7"),
    "another word": ("c", "found 'c'"),
    "NaN in a list": ([1, math.nan], "found the number nan"),
    "a boolean in a list": ([True], "the boolean true"),
    "an empty list": ([], "found an empty list"),
    "a structure": ({"a": 1}, "a structure of 'a'"),
}
NO_ANSWER = NOTHING | {
    "a boolean": NOT_TEXT["a boolean"],
    "a number": NOT_TEXT["a number"],
    "no message": ([], "nothing at the end"),
    "the user's message": ([{"role": "user", "content": "x"}], "one of role 'user' at the end"),
    "a silent assistant": ([{"role": "assistant", "content": None}], "nothing"),
    "a number for an answer": ([{"role": "assistant", "content": 7}], "the number 7"),
}


@dataclass(frozen=True)
class Place:
    """One column of one reader."""

    name: str
    column: str
    bad: dict[str, tuple[object, str]]
    write_and_open: Callable[[Path, Rows], Opened]
    good: dict[str, object]


def manifest(name: str) -> Callable[[Path, Rows], Opened]:
    def write_and_open(root: Path, rows: Rows) -> Opened:
        write_table(root / name, rows)
        return opened(root, SourceKind.manifest, manifest=name)

    return write_and_open


def opened(root: Path, kind: SourceKind, **settings: object) -> Opened:
    columns = {"label_columns": ["label"], "caption_column": "text", "clip_id_column": "id", "split_column": "fold"}
    source = open_source(DataConfig(kind=kind, root=str(root), **columns, **settings))
    return len(source), source.left_out.quarantined


def write_table(path: Path, rows: Rows) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")


def shard(root: Path, rows: Rows) -> Opened:
    with tarfile.open(root / "0.tar", "w") as tar:
        for number, fields in enumerate(rows, start=1):
            for name, content in ((f"row {number}.wav", b"x"), (f"row {number}.json", json.dumps(fields).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return opened(root, SourceKind.webdataset)


def audio_inside(root: Path, rows: Rows) -> Opened:
    pq.write_table(pa.Table.from_pylist(rows).append_column("audio", pa.array([b"x"] * len(rows))), root / "0.parquet")
    return opened(root, SourceKind.parquet)


def imported(name: str) -> Callable[[Path, Rows], Opened]:
    def write_and_open(root: Path, rows: Rows) -> Opened:
        write_table(root / name, rows)
        found = import_pairs(root / name)
        return len(found.pairs), found.quarantined

    return write_and_open


def label_studio(root: Path, rows: Rows) -> Opened:
    def task(row: dict[str, object]) -> dict[str, object]:
        data = {name: value for name, value in row.items() if name != "selected"}
        result = [{"type": "pairwise", "to_name": "text1,text2", "value": {"selected": row["selected"]}}]
        return {"data": data, "annotations": [{"result": result}]}

    return imported("row.json")(root, [task(row) for row in rows])


def fense(root: Path, rows: Rows) -> Opened:
    names = ("caption_a", "caption_b", "source_a", "source_b", "votes")
    return imported("row.json")(
        root, [{"audio_id": row["clip_id"], "HC": [row[name] for name in names]} for row in rows]
    )


def stored(root: Path, rows: Rows) -> Opened:
    pq.write_table(pa.Table.from_pylist(rows), root / "pairs.parquet")
    found = sift_pairs(root / "pairs.parquet")
    return len(found.pairs), found.quarantined


def scored(name: str) -> Callable[[Path, Rows], Opened]:
    def write_and_open(root: Path, rows: Rows) -> Opened:
        write_table(root / name, rows)
        faults = [fault for fault in read_captions(root / name).faults if fault]
        if len(faults) == len(rows):
            raise DataError(faults[0])
        return len(rows) - len(faults), [Quarantined(name, fault) for fault in faults]

    return write_and_open


CLIP = {"path": "a.wav", "id": "a", "label": "dog", "text": "a dog", "fold": "1"}
PAIR = {
    "clip_id": "a",
    "caption_a": "x",
    "caption_b": "y",
    "votes": [1],
    "source_a": "",
    "source_b": "",
    "category": "",
}
CHOSEN = {"audio": "a.wav", "chosen": "x", "rejected": "y"}
TASK = {"audio": "a.wav", "text1": "x", "text2": "y", "selected": "left"}
FLAT = {"audio": "a.wav", "text1": "x", "text2": "y", "pw": "left", "annotation_id": 1}

OF_CLIPS = {"path": NOT_TEXT | NOTHING, "id": NOT_TEXT | NOTHING, "label": NOT_TEXT, "text": NOT_TEXT, "fold": NO_WORD}
OF_PAIRS = dict.fromkeys(("clip_id", "caption_a", "caption_b"), NOT_TEXT | NOTHING)
OF_PAIRS |= {"votes": NO_VOTE, "source_a": NO_WORD, "category": NO_WORD}
OF_JUDGEMENTS = {name: bad for name, bad in OF_PAIRS.items() if name != "category"} | {"clip_id": NOT_TEXT}
OF_SHARDS = {name: bad for name, bad in OF_CLIPS.items() if name != "path"} | {"id": NOT_TEXT}
OF_CHOSEN = {"chosen": NO_ANSWER, "rejected": NO_ANSWER, "audio": NOT_TEXT | NOTHING}
OF_TASKS = dict.fromkeys(("text1", "text2", "audio"), NOT_TEXT | NOTHING)
SCORED = {"audio": NOT_TEXT | NOTHING, "caption": NOT_TEXT | {kind: NOTHING[kind] for kind in ("null", "NaN")}}

PLACES = [
    Place(f"{name} {column}", column, bad, write_and_open, good)
    for name, columns, write_and_open, good in (
        ("manifest.jsonl", OF_CLIPS, manifest("row.jsonl"), CLIP),
        ("webdataset", OF_SHARDS, shard, CLIP),
        ("prefs.jsonl", OF_PAIRS, imported("row.jsonl"), PAIR),
        ("prefs.json", OF_PAIRS, imported("row.json"), PAIR),
        ("chosen.jsonl", OF_CHOSEN, imported("row.jsonl"), CHOSEN),
        ("label studio json", OF_TASKS | {"selected": NOT_TEXT}, label_studio, TASK),
        ("label studio json-min", OF_TASKS, imported("row.json"), FLAT),
        ("fense", OF_JUDGEMENTS, fense, PAIR),
        ("score.jsonl", SCORED, scored("row.jsonl"), {"audio": "a.wav", "caption": "x"}),
    )
    for column, bad in columns.items()
]
TYPED_PLACES = [
    Place(f"{name} {column}", column, bad, write_and_open, good)
    for name, columns, write_and_open, good in (
        ("manifest.parquet", OF_CLIPS, manifest("row.parquet"), CLIP),
        ("parquet", {name: bad for name, bad in OF_CLIPS.items() if name != "path"}, audio_inside, CLIP),
        ("prefs.parquet", OF_PAIRS, imported("row.parquet"), PAIR),
        ("stored", OF_PAIRS | {"source_a": NOT_TEXT, "category": NOT_TEXT}, stored, PAIR),
        ("score.parquet", SCORED, scored("row.parquet"), {"audio": "a.wav", "caption": "x"}),
    )
    for column, bad in columns.items()
]
MAY_BE_EMPTY = {"stored caption_a", "stored caption_b"}


def told_of(number: int) -> list[str]:
    """The ways in which a message may name the row."""
    return [f"{what} {number}" for what in ("row", "clip", "task")]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_a_cell_of_another_type_spoils_its_own_row_alone_and_is_told(tmp_path, place):
    for kind, (value, found) in place.bad.items():
        number, quarantined = place.write_and_open(tmp_path, [place.good, place.good | {place.column: value}])
        assert (number, len(quarantined)) == (1, 1), kind
        told = f"{quarantined[0].path}: {quarantined[0].reason}"
        assert any(row in told for row in told_of(2)), kind
        assert found in told, kind


@pytest.mark.parametrize("place", [*PLACES, *TYPED_PLACES], ids=lambda place: place.name)
def test_a_source_of_such_rows_alone_is_refused_by_the_first(tmp_path, place):
    for kind, (value, found) in place.bad.items():
        if place.name in MAY_BE_EMPTY and isinstance(value, str):
            continue
        with pytest.raises(DataError) as refusal:
            place.write_and_open(tmp_path, [place.good | {place.column: value}])
        told = str(refusal.value)
        assert any(row in told for row in told_of(1)), kind
        assert found in told or place.name == "stored votes", kind


@pytest.mark.parametrize("column", ["label", "text", "fold"])
@pytest.mark.parametrize("kind", NOTHING)
def test_what_may_be_missing_is_missing_and_never_text(tmp_path, column, kind):
    rows = [CLIP, CLIP | {"path": "b.wav", "id": "b", column: NOTHING[kind][0]}]
    for write_and_open in (manifest("row.jsonl"), shard):
        assert write_and_open(tmp_path, rows) == (2, ())


@pytest.mark.parametrize("name", ["row.jsonl", "row.parquet"])
def test_empty_columns_of_pandas_are_empty_and_never_a_writer(tmp_path, name):
    write_table(tmp_path / name, [PAIR | {"source_a": math.nan, "source_b": None}])
    (pair,) = import_pairs(tmp_path / name).pairs
    assert (pair.source_a, pair.source_b) == ("", "")


def test_every_column_of_stored_pairs_is_held_to_its_type():
    assert {place.column for place in TYPED_PLACES if place.name.startswith("stored")} >= set(SCHEMA.names) - {
        "source_b"
    }
