"""What models have heard of clips: computed once, and embeddings of pretrained CLAPs kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from reward_server.clap import Clap
from rlcap.audio.features import LogMel, LogMelConfig
from rlcap.audio.quarantine import QuarantineList
from rlcap.config.data import Split
from rlcap.errors import DataError
from rlcap.pipeline.clips import CHUNK, SplitClips
from rlcap.pipeline.progress import progress_bar
from rlcap.pipeline.stage_cache import StageCache
from rlcap.protocols import AudioSource
from rlcap.types import Clip, PolicyFeatures, Quarantined

Embeddings = Float32[np.ndarray, "clip dim"]
Audio = TypeVar("Audio", PolicyFeatures, Embeddings)
EMBEDDINGS_FILE, QUARANTINE_FILE = "embeddings.arrow", "quarantine.csv"


@dataclass(frozen=True, slots=True)
class Heard(Generic[Audio]):
    """What a model has heard of the clips that could be read."""

    audio: Audio
    """Features or embeddings, a row a clip."""
    clip_ids: tuple[str, ...]
    positions: tuple[int, ...]
    """Where each stands in its source."""
    quarantined: tuple[Quarantined, ...]


HeardClips = Heard[PolicyFeatures]
EmbeddedClips = Heard[Embeddings]


class Listener:
    """Hears splits once for all stages of a process, and embeds them once for all processes."""

    def __init__(self, clips: Callable[[Split], SplitClips], cache: StageCache) -> None:
        self.quarantined: list[Quarantined] = []
        self._clips = clips
        self._cache = cache
        self._log_mels: dict[Split, HeardClips] = {}
        self._embedded: dict[Split, EmbeddedClips] = {}

    def log_mel(self, split: Split) -> HeardClips:
        """Log-mel frames, kept for the stages that follow: a CLAP and two rewards ask for the same."""
        if split not in self._log_mels:
            self._log_mels[split] = self.hear(self._clips(split), LogMel(LogMelConfig()), f"listen ({split.value})")
        return self._log_mels[split]

    def hear(
        self, clips: SplitClips, make_features: Callable[[Sequence[Clip]], PolicyFeatures], description: str
    ) -> HeardClips:
        """Features of the clips for a model of its own, not kept."""
        heard = hear(clips.source, make_features, join_features, description)
        self.quarantined += heard.quarantined
        return heard

    def embedded(self, split: Split, clap: Clap) -> EmbeddedClips:
        """Embeddings by a pretrained CLAP, from the disk where it has embedded these clips before."""
        if split not in self._embedded:
            clips = self._clips(split)

            def build(path: Path) -> None:
                description = f"embed ({split.value})"
                write_embeddings(path, hear(clips.source, clap.embed_clips, np.concatenate, description))

            facts = {"clips": clips.key, "encoder": clap.encoder_fingerprint}
            self._embedded[split] = read_embeddings(self._cache.get(f"embeddings-{split.value}", facts, build).path)
            self.quarantined += self._embedded[split].quarantined
        return self._embedded[split]

    def forget(self) -> None:
        """Free the memory of frames and embeddings that no later stage asks for."""
        self._log_mels.clear()
        self._embedded.clear()


def hear(
    source: AudioSource,
    listen: Callable[[Sequence[Clip]], Audio],
    join: Callable[[Sequence[Audio]], Audio],
    description: str,
) -> Heard[Audio]:
    """Read and hear every clip of a source, once; clips that cannot be read are left out and listed.

    Raises:
        DataError: no clip could be read.
    """
    parts: list[Audio] = []
    kept: list[tuple[str, int]] = []
    quarantined: list[Quarantined] = []
    chunks = [range(start, min(start + CHUNK, len(source))) for start in range(0, len(source), CHUNK)]
    with progress_bar(description, len(chunks)) as advance:
        for chunk in chunks:
            for position in chunk:
                clips, refused = source.read([position])
                quarantined += refused
                if clips:
                    parts.append(listen(clips))
                    kept.append((clips[0].clip_id, position))
            advance(f"{len(quarantined)} quarantined" if quarantined else "")
    if not kept:
        raise DataError(f"none of the {len(source)} clips could be read; the first reason: {quarantined[0].reason}")
    clip_ids, positions = tuple(clip_id for clip_id, _ in kept), tuple(position for _, position in kept)
    return Heard(join(parts), clip_ids, positions, tuple(quarantined))


def join_features(parts: Sequence[PolicyFeatures]) -> PolicyFeatures:
    """Put the clips of several feature batches under one another, padded to the longest."""
    num_clips = sum(len(part.frames) for part in parts)
    longest = max(part.frames.shape[1] for part in parts)
    frames = np.zeros((num_clips, longest, parts[0].frames.shape[2]), dtype=np.float32)
    mask = np.zeros((num_clips, longest), dtype=bool)
    row = 0
    for part in parts:
        rows, length = part.frame_mask.shape
        frames[row : row + rows, :length] = part.frames
        mask[row : row + rows, :length] = part.frame_mask
        row += rows
    return PolicyFeatures(frames, mask)


def write_embeddings(path: Path, embedded: EmbeddedClips) -> None:
    """Write embeddings as Arrow (columns clip_id, position, embedding), and beside them what could not be read."""
    dim = embedded.audio.shape[1]
    table = pa.table(
        {
            "clip_id": pa.array(embedded.clip_ids, pa.string()),
            "position": pa.array(embedded.positions, pa.int64()),
            "embedding": pa.FixedSizeListArray.from_arrays(embedded.audio.reshape(-1), dim),
        }
    )
    with pa.ipc.new_file(path / EMBEDDINGS_FILE, table.schema) as writer:
        writer.write_table(table)
    QuarantineList(embedded.quarantined).save(path / QUARANTINE_FILE)


def read_embeddings(path: Path) -> EmbeddedClips:
    """Read what `write_embeddings` wrote. Raises DataError where it is damaged."""
    try:
        table = pa.ipc.open_file(path / EMBEDDINGS_FILE).read_all().combine_chunks()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"the embeddings in {path} are damaged: {error}; remove the folder to have them made"
        ) from error
    rows = table["embedding"].combine_chunks()
    return Heard(
        # A copy: torch takes no array that it must not write to.
        rows.flatten().to_numpy().reshape(len(rows), -1).copy(),
        tuple(table["clip_id"].to_pylist()),
        tuple(table["position"].to_pylist()),
        tuple(QuarantineList.load(path / QUARANTINE_FILE)),
    )
