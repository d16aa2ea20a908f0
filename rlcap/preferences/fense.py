"""The human judgements that come with FENSE (Zhou et al., 2022), as rows of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rlcap.tables.rows import Row, described, is_nothing

KINDS = ("HC", "HI", "HM", "MM")
"""What stands before `_` in the keys of judgements."""


def is_fense(clip: object) -> bool:
    """Whether an element of a JSON list is a clip with judgements."""
    return isinstance(clip, Mapping) and any(_kind(key) and _may_be_judged(clip[key]) for key in clip)


def fense_rows(clips: list[object]) -> Iterator[Row]:
    """Read `HC`, `HI`, `HM`, `MM_1` ...: [caption, caption, source, source, ..., votes]; null is no judgement."""
    for number, clip in enumerate(clips, start=1):
        if not isinstance(clip, Mapping):
            yield Row(number, f"clip {number}", {}, f"expected a structure, found {described(clip)}")
            continue
        clip_id = next((clip[key] for key in ("audio_id", "raw_name") if not is_nothing(clip.get(key))), None)
        if clip_id is None:
            missing = "audio_id or raw_name must say which clip was judged, found neither"
            yield Row(number, f"clip {number}", {}, missing)
            continue
        for key, judged in clip.items():
            if _kind(key) and judged is not None:
                yield _row(number, key, clip_id, judged)


def _kind(key: str) -> str:
    kind = key.split("_")[0]
    return kind if kind in KINDS else ""


def _may_be_judged(value: object) -> bool:
    return value is None or isinstance(value, list)


def _row(number: int, key: str, clip_id: object, judged: object) -> Row:
    where = f"clip {number}, {key}"
    if not isinstance(judged, list) or len(judged) < 5:
        expected = "expected caption, caption, source, source and votes"
        return Row(number, where, {}, f"{expected}, found {described(judged)}")
    names = ("caption_a", "caption_b", "source_a", "source_b")
    cells = dict(zip(names, judged, strict=False))
    return Row(number, where, {"clip_id": clip_id, **cells, "votes": judged[-1], "category": _kind(key)})
