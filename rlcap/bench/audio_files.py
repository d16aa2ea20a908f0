"""The same clips in every layout that rlcap reads, as FLAC; in the clip store they are decoded already."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlcap.audio.arrow_store import write_clip_store
from rlcap.audio.encoding import to_flac
from rlcap.types import Clip

SAMPLE_RATE_HZ = 16_000
AUDIO = "audio"
"""Column of the audio in the Parquet files."""
ROWS_PER_GROUP, NUM_FILES = 16, 4


@dataclass(frozen=True, slots=True)
class AudioFiles:
    """Where the clips lie."""

    store: Path
    folder: Path
    """Of files, and a manifest of them."""
    parquet: Path
    shards: Path


def write_audio_files(directory: Path, num_clips: int, clip_s: float) -> AudioFiles:
    """Write clips of noise in every layout."""
    rng = np.random.default_rng(0)
    length = int(clip_s * SAMPLE_RATE_HZ)
    clips = [
        Clip(f"clip-{number:06d}", rng.standard_normal(length).astype(np.float32) / 10, SAMPLE_RATE_HZ)
        for number in range(num_clips)
    ]
    encoded = [(clip.clip_id, to_flac(clip)) for clip in clips]
    files = AudioFiles(*(directory / name for name in ("clips.arrow", "files", "parquet", "shards")))
    write_clip_store(files.store, ((clip, "{}") for clip in clips))
    for folder in (files.folder, files.parquet, files.shards):
        folder.mkdir()
    _write_folder(files.folder, encoded)
    for number, part in enumerate(encoded[start::NUM_FILES] for start in range(min(NUM_FILES, num_clips))):
        _write_parquet(files.parquet / f"{number}.parquet", part)
        _write_shard(files.shards / f"{number}.tar", part)
    return files


def _write_folder(folder: Path, encoded: Sequence[tuple[str, bytes]]) -> None:
    for clip_id, content in encoded:
        (folder / f"{clip_id}.flac").write_bytes(content)
    lines = ["path", *(f"{clip_id}.flac" for clip_id, _ in encoded)]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_parquet(path: Path, encoded: Sequence[tuple[str, bytes]]) -> None:
    table = pa.table({AUDIO: pa.array([content for _, content in encoded], pa.binary())})
    pq.write_table(table, path, row_group_size=ROWS_PER_GROUP)


def _write_shard(path: Path, encoded: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as shard:
        for clip_id, content in encoded:
            member = tarfile.TarInfo(f"{clip_id}.flac")
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
