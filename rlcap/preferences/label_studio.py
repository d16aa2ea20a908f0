"""Exports of Label Studio's pairwise labels, as rows of pairs: JSON, and JSON-MIN and CSV.

https://labelstud.io/templates/pairwise_comparison, https://labelstud.io/guide/export
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

from rlcap.tables.rows import Row, described, is_nothing

_CAPTION_NAMES = (("text1", "text2"), ("caption_a", "caption_b"), ("answer1", "answer2"), ("caption1", "caption2"))
_SIDES = {"left": 1, "right": -1}
_NOT_CHOSEN = ("annotation_id", "annotator", "id", "audio", "clip_id")
_UPLOADED = re.compile(r"/data/upload/\d+/(?:[0-9a-f]{8}-)?(.+)")
CANCELLED, NO_CHOICE, NO_ANNOTATION = "cancelled annotations", "annotations without a choice", "tasks nobody annotated"


def is_task(item: object) -> bool:
    """Whether an element of a JSON list is a task of Label Studio with its annotations."""
    return isinstance(item, Mapping) and isinstance(item.get("data"), Mapping) and "annotations" in item


def task_rows(tasks: Iterable[object], passed_over: Counter[str]) -> Iterator[Row]:
    """Read tasks of the JSON export, one row an annotation; count what says nothing in `passed_over`."""
    for number, task in enumerate(tasks, start=1):
        where = f"task {number}"
        annotations = task.get("annotations") if isinstance(task, Mapping) else None
        data = task.get("data") if isinstance(task, Mapping) else None
        if not isinstance(annotations, list) or not isinstance(data, Mapping):
            yield Row(number, where, {}, f"expected a task with data and annotations, found {described(task)}")
            continue
        passed_over[NO_ANNOTATION] += not annotations
        for place, annotation in enumerate(annotations, start=1):
            yield from _annotation_rows(number, f"{where}, annotation {place}", data, annotation, passed_over)


def is_flat(row: Row) -> bool:
    """Whether a row of a table is one of JSON-MIN or CSV."""
    return "annotation_id" in row.cells and not {"chosen", "votes", "preferred"} & set(row.cells)


def flat_row(row: Row, passed_over: Counter[str]) -> Row | None:
    """Read a row of JSON-MIN or CSV, where one column holds `left` or `right`; None, counted, where none does."""
    names = _caption_names(row.cells, "")
    unlikely = {*_NOT_CHOSEN, *(names or ())}
    sides = [
        value
        for name, value in row.cells.items()
        if name not in unlikely and isinstance(value, str) and value in _SIDES
    ]
    if not sides:
        passed_over[NO_CHOICE] += 1
        return None
    if len(sides) > 1:
        return replace(row, broken="expected one column with left or right, found several")
    return _pair_row(row.number, row.where, row.cells, names, sides[0])


def _annotation_rows(
    number: int, where: str, data: Mapping[str, object], annotation: object, passed_over: Counter[str]
) -> Iterator[Row]:
    if not isinstance(annotation, Mapping) or not isinstance(annotation.get("result"), list):
        yield Row(number, where, {}, f"expected an annotation with a result, found {described(annotation)}")
        return
    if annotation.get("was_cancelled") is True:
        passed_over[CANCELLED] += 1
        return
    chosen = [one for one in annotation["result"] if isinstance(one, Mapping) and one.get("type") == "pairwise"]
    if not chosen:
        passed_over[NO_CHOICE] += 1
        return
    if len(chosen) > 1:
        yield Row(number, where, {}, f"expected one pairwise choice, found {len(chosen)}")
        return
    value = chosen[0].get("value")
    side = value.get("selected") if isinstance(value, Mapping) else value
    names = _caption_names(data, chosen[0].get("to_name"))
    yield _pair_row(number, where, data, names, side)


def _caption_names(data: Mapping[str, object], to_name: object) -> tuple[str, str] | None:
    """Which fields hold the captions: those that the labels name, or else names of Label Studio's templates."""
    named = tuple(part.strip() for part in to_name.split(",")) if isinstance(to_name, str) else ()
    likely = [pair for pair in (named, *_CAPTION_NAMES) if len(pair) == 2 and all(name in data for name in pair)]
    return (likely[0][0], likely[0][1]) if likely else None


def _pair_row(number: int, where: str, data: Mapping[str, object], names: tuple[str, str] | None, side: object) -> Row:
    if not isinstance(side, str) or side not in _SIDES:
        return Row(number, where, {}, f"expected left or right to be selected, found {described(side)}")
    if names is None:
        return Row(
            number, where, {}, f"expected captions in text1 and text2, found {described(dict(data))}: rename them"
        )
    cells = {"caption_a": data[names[0]], "caption_b": data[names[1]], "votes": [_SIDES[side]]}
    clip = data.get("audio") if is_nothing(data.get("clip_id")) else data["clip_id"]
    return Row(number, where, {"clip_id": _stored(clip), **cells, "category": data.get("category")})


def _stored(audio: object) -> object:
    """Take a file's own path out of Label Studio's: uploads have a prefix, local files are a query."""
    if not isinstance(audio, str):
        return audio
    uploaded = _UPLOADED.fullmatch(audio)
    if uploaded:
        return uploaded[1]
    if audio.startswith("/data/local-files/"):
        return next(iter(parse_qs(urlsplit(audio).query).get("d", [])), audio)
    return audio
