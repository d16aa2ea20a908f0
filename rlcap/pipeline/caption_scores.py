"""Scores of the captions that a table lists, by saved reward models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32
from pyarrow import csv

from reward_server.scoring import SETTINGS_FILE, ClapReward
from rlcap.audio.decoding import DecodeLimits, decode
from rlcap.audio.files import existing_below
from rlcap.config.load import read_config
from rlcap.errors import CheckpointError, ClipError, DataError, RowError
from rlcap.pipeline.progress import progress_bar
from rlcap.pipeline.reward_history import last_reward
from rlcap.run_directory import RunDirectory
from rlcap.tables.reading import read_rows
from rlcap.tables.rows import Row
from rlcap.types import Clip

AUDIO_COLUMN, CAPTION_COLUMN = "audio", "caption"
OUT_KINDS = (".csv", ".jsonl", ".parquet")
BATCH_SIZE = 256
"""Captions in one pass of the text tower."""


@dataclass(frozen=True, slots=True)
class ListedCaptions:
    """Rows of a table: audio files and captions of them."""

    root: Path
    """Folder that the paths are relative to, resolved; they may not lead out of it."""
    audio: tuple[str, ...]
    captions: tuple[str, ...]
    faults: tuple[str, ...]
    """Why a row has no audio file or no caption; empty for one that has both."""


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """One score a row, or a reason why there is none."""

    scores: Float32[np.ndarray, " row"]
    """NaN exactly where `reasons` says why."""
    reasons: tuple[str, ...]
    """Empty for a row with a score."""
    version: str
    """Of the reward model."""


@dataclass(frozen=True, slots=True)
class OpenedReward:
    """A reward model, and which clips it may be given."""

    model: ClapReward
    limits: DecodeLimits


def open_reward(path: Path) -> OpenedReward:
    """Load a reward model, or the one that scored a run last, with the limits of the run's clips.

    Raises:
        CheckpointError: there is none, or it is damaged.
        ConfigError: the settings of the run cannot be read.
    """
    if (path / SETTINGS_FILE).is_file():
        return OpenedReward(ClapReward.load(path), DecodeLimits())
    run = RunDirectory(path)
    swapped_in = last_reward(run)
    for folder in (swapped_in, run.reward):
        if folder is not None and (folder / SETTINGS_FILE).is_file():
            return OpenedReward(ClapReward.load(folder), DecodeLimits.of(read_config(run.config).data))
    raise CheckpointError(
        f"{path} is neither a reward model nor a run that has one: expected {SETTINGS_FILE} or "
        f"{run.reward.name}/{SETTINGS_FILE} in it"
    )


def read_captions(path: Path) -> ListedCaptions:
    """Read a CSV, TSV, JSON lines or Parquet table with the columns audio and caption; a caption may be empty.

    Raises:
        DataError: the table is missing, damaged or without rows, or lacks a column.
    """
    rows = [_listed(row) for row in read_rows(path, [AUDIO_COLUMN, CAPTION_COLUMN])]
    audio, captions, faults = zip(*rows, strict=True)
    return ListedCaptions(path.resolve().parent, audio, captions, faults)


def _listed(row: Row) -> tuple[str, str, str]:
    """Audio file, caption, and why there are none: a row that cannot be used keeps its place."""
    try:
        row.check()
        return row.text(AUDIO_COLUMN), row.blank_or_text(CAPTION_COLUMN), ""
    except RowError as error:
        return "", "", f"bad row: {row.where}, {error}"


def read_clip(listed: ListedCaptions, audio: str, limits: DecodeLimits) -> Clip:
    """Decode one of the audio files. Raises ClipError where it cannot be used."""
    return decode(existing_below(listed.root, audio), audio, limits)


def score_captions(listed: ListedCaptions, reward: OpenedReward) -> CaptionScores:
    """Score every row; each audio file is read once, and one that cannot be used leaves its rows without a score."""
    embedded, reason_of = _listen(listed, reward)
    number = {audio: place for place, audio in enumerate(embedded)}
    usable = zip(listed.audio, listed.faults, strict=True)
    heard = np.array(
        [row for row, (audio, fault) in enumerate(usable) if audio in number and not fault], dtype=np.int64
    )
    scores = np.full(len(listed.audio), np.nan, dtype=np.float32)
    embeddings = np.stack([*embedded.values()]) if embedded else np.empty((0, 0), dtype=np.float32)
    for start in range(0, len(heard), BATCH_SIZE):
        rows = heard[start : start + BATCH_SIZE]
        clip_index = np.array([number[listed.audio[row]] for row in rows])
        scores[rows] = reward.model.score(embeddings, [listed.captions[row] for row in rows], clip_index)
    scores[~np.isfinite(scores)] = np.nan
    reasons = (
        fault or reason_of.get(audio, "the score is not finite" if missing else "")
        for audio, fault, missing in zip(listed.audio, listed.faults, np.isnan(scores), strict=True)
    )
    return CaptionScores(scores, tuple(reasons), reward.model.version)


def _listen(
    listed: ListedCaptions, reward: OpenedReward
) -> tuple[dict[str, Float32[np.ndarray, " dim"]], dict[str, str]]:
    """The embedding of each audio file, or why there is none."""
    distinct = dict.fromkeys(audio for audio, fault in zip(listed.audio, listed.faults, strict=True) if not fault)
    embedded: dict[str, Float32[np.ndarray, " dim"]] = {}
    reason_of: dict[str, str] = {}
    with progress_bar(f"listen for {reward.model.version}", len(distinct)) as advance:
        for audio in distinct:
            try:
                clip = read_clip(listed, audio, reward.limits)
            except ClipError as error:
                reason_of[audio] = str(error)
            else:
                embedded[audio] = reward.model.embed_audio([clip])[0]
            advance(f"{len(reason_of)} not usable" if reason_of else "")
    return embedded, reason_of


def check_out(path: Path) -> None:
    """Refuse a file of scores that could not be written. Raises DataError."""
    if path.suffix.lower() not in OUT_KINDS:
        raise DataError(f"scores are written as {', '.join(OUT_KINDS)}; got {path}")
    if path.exists():
        raise DataError(f"{path} is there already; give another name, or move it away")


def write_scores(listed: ListedCaptions, scored: CaptionScores, path: Path) -> None:
    """Write columns audio, caption, score (empty where there is none), reward_version and reason."""
    table = pa.table(
        {
            AUDIO_COLUMN: pa.array(listed.audio, pa.string()),
            CAPTION_COLUMN: pa.array(listed.captions, pa.string()),
            "score": pa.array(scored.scores, pa.float32(), mask=np.isnan(scored.scores)),
            "reward_version": pa.array([scored.version] * len(listed.audio), pa.string()),
            "reason": pa.array(scored.reasons, pa.string()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.lower()
    if kind == ".csv":
        csv.write_csv(table, path)
    elif kind == ".parquet":
        pq.write_table(table, path)
    else:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
        path.write_text("".join(lines), encoding="utf-8")
