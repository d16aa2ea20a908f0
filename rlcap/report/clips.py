"""Clips as the page shows them: held-out ones with a player, and samples over the course of training."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

MAX_AUDIO_BYTES = 24_000_000
"""Audio in one report; later clips go without a player, so that the page stays light enough to open and to send."""

_MIME_BY_MAGIC = {b"fLaC": "audio/flac", b"OggS": "audio/ogg", b"RIFF": "audio/wav"}

VERDICTS = {"tuned": "tuned is better", "baseline": "baseline is better", "tie": "tie"}


@dataclass(frozen=True, slots=True)
class HeldoutClip:
    """One row of the held-out table."""

    clip_id: str
    truth: str
    captions: tuple[tuple[str, str, bool | None], ...]
    """Captioner, caption, and whether it names the right sounds (None: not known)."""
    verdict: str
    audio: str
    """A data URI, or empty."""


@dataclass(frozen=True, slots=True)
class SampledCaption:
    """A caption that a clip had from one round of samples to another."""

    updates: str
    caption: str
    reward: str
    """The last one."""
    reward_version: str


@dataclass(frozen=True, slots=True)
class SampledClip:
    """The captions of one clip in the course of training."""

    clip_id: str
    captions: list[SampledCaption]


def heldout_clips(rows: Sequence[Mapping[str, Any]]) -> list[HeldoutClip]:
    """Prepare rows of `heldout.parquet`: columns clip_id, truth, a caption each captioner, verdict, audio_flac."""
    clips = []
    for row, uri in zip(rows, data_uris(row.get("audio_flac") or b"" for row in rows), strict=True):
        captions = tuple(
            (name, row[name], row.get(f"{name}_right"))
            for name in ("tuned", "baseline", "supervised")
            if row.get(name) is not None
        )
        clips.append(HeldoutClip(str(row["clip_id"]), row.get("truth") or "", captions, row.get("verdict") or "", uri))
    return clips


def data_uris(recordings: Iterable[bytes]) -> Iterator[str]:
    """Yield each recording as what a player plays; nothing where it is no audio, or too much for the page by now."""
    budget = MAX_AUDIO_BYTES
    for audio in recordings:
        uri = _data_uri(audio) if len(audio) <= budget else ""
        budget -= len(audio) if uri else 0
        yield uri


def count_verdicts(clips: Sequence[HeldoutClip]) -> list[tuple[str, str, int]]:
    """Return key, words and number of clips of each verdict that occurs."""
    counts = Counter(clip.verdict for clip in clips)
    return [(verdict, words, counts[verdict]) for verdict, words in VERDICTS.items() if counts[verdict]]


def sampled_clips(rows: Sequence[Mapping[str, Any]]) -> list[SampledClip]:
    """Group rows of `samples.parquet` by clip; rounds in a row with the same caption and reward model become one."""
    by_clip: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["update"]):
        by_clip.setdefault(str(row["clip_id"]), []).append(row)
    return [SampledClip(clip_id, _merge_repeats(found)) for clip_id, found in by_clip.items()]


def _merge_repeats(rows: list[Mapping[str, Any]]) -> list[SampledCaption]:
    merged = []
    for (caption, version), run in groupby(rows, key=lambda row: (row["caption"], row.get("reward_version", ""))):
        same = list(run)
        first, last, reward = same[0]["update"], same[-1]["update"], same[-1].get("reward")
        updates = str(first) if first == last else f"{first}–{last}"
        merged.append(SampledCaption(updates, caption, "" if reward is None else f"{reward:.2f}", version))
    return merged


def _data_uri(audio: bytes) -> str:
    mime = _MIME_BY_MAGIC.get(audio[:4])
    return f"data:{mime};base64,{base64.b64encode(audio).decode('ascii')}" if mime else ""
