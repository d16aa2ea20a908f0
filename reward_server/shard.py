"""One shard: scores captions of the clips that it owns, and remembers what it heard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from reward_server.cache import CacheCounts, EmbeddingCache
from reward_server.micro_batching import MicroBatcher
from reward_server.swap import Edition, Editions, VersionedModel
from rlcap.config.reward import RewardConfig
from rlcap.errors import RlcapError
from rlcap.types import Clip

ReadClips = Callable[[Sequence[int]], list[Clip]]
"""Fetches clips of a request by their number in it."""
BYTES_PER_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class ShardScores:
    """Scores of one request by one version; NaN exactly where `failed`."""

    scores: Float32[np.ndarray, " batch"]
    failed: Bool[np.ndarray, " batch"]
    failure_reasons: tuple[str, ...]
    version: str


@dataclass(frozen=True, slots=True)
class _Job:
    """One request as the model reads it."""

    model: VersionedModel
    audio: Float32[np.ndarray, "clip dim"]
    captions: tuple[str, ...]
    clip_index: Int64[np.ndarray, " batch"]


class Shard:
    """Scores requests by the live model. Threads may call `score` at once.

    With `config.deterministic` a request is scored by itself, and its scores do not depend on the cache or on other
    requests to the last bit; without, the captions of several requests share passes of the text tower.
    """

    def __init__(self, name: str, editions: Editions, config: RewardConfig) -> None:
        self.name = name
        self.editions = editions
        self._cache = EmbeddingCache(int(config.cache_mb * BYTES_PER_MB))
        self._cache_lock = threading.Lock()
        self._max_batch_size = config.max_batch_size
        self._batcher: MicroBatcher[_Job, Float32[np.ndarray, " batch"]] | None = None
        if not config.deterministic:
            self._batcher = MicroBatcher(
                _score_together, lambda job: len(job.captions), config.max_batch_size, config.max_wait_ms / 1000
            )

    def score(
        self,
        edition: Edition,
        clip_ids: Sequence[str],
        read_clips: ReadClips,
        captions: Sequence[str],
        clip_index: Int64[np.ndarray, " batch"],
    ) -> ShardScores:
        """Score `captions[i]` against clip `clip_index[i]`; `read_clips` is asked for clips that are not cached."""
        model = edition.model
        reasons: dict[str, None] = {}
        audio = self._embeddings(model, clip_ids, read_clips, reasons)
        scores = np.full(len(captions), np.nan, dtype=np.float32)
        heard = np.array([embedding is not None for embedding in audio], dtype=bool)
        rows = np.flatnonzero(heard[clip_index])
        if len(rows):
            job = _Job(
                model,
                np.stack([embedding for embedding in audio if embedding is not None]),
                tuple(captions[row] for row in rows),
                (np.cumsum(heard) - 1)[clip_index[rows]],
            )
            scores[rows] = self._score(job, reasons)
        named = tuple(f"{self.name}: {reason}" for reason in reasons)
        return ShardScores(scores, np.isnan(scores), named, model.version)

    def cache_counts(self) -> CacheCounts:
        """What the cache of audio embeddings has done so far."""
        with self._cache_lock:
            return self._cache.counts()

    def _embeddings(
        self, model: VersionedModel, clip_ids: Sequence[str], read_clips: ReadClips, reasons: dict[str, None]
    ) -> list[Float32[np.ndarray, " dim"] | None]:
        """Embedding of each clip, or None and a reason for those that cannot be embedded."""
        fingerprint = model.encoder_fingerprint
        with self._cache_lock:
            found = [self._cache.get((fingerprint, clip_id)) for clip_id in clip_ids]
        missing = [number for number, embedding in enumerate(found) if embedding is None]
        if not missing:
            return found
        try:
            clips = read_clips(missing)
        except RlcapError as error:
            reasons[f"the audio of {len(missing)} clips could not be fetched: {error}"] = None
            return found
        for number, clip in zip(missing, clips, strict=True):
            found[number] = _embedding(model, clip, reasons)
        with self._cache_lock:
            for number in missing:
                embedding = found[number]
                if embedding is not None:
                    self._cache.put((fingerprint, clip_ids[number]), embedding)
        return found

    def _score(self, job: _Job, reasons: dict[str, None]) -> Float32[np.ndarray, " batch"]:
        """Score a job; NaN, with a reason, where the model raises or gives what is not finite."""
        try:
            scores = self._batcher.submit(job) if self._batcher is not None else self._score_alone(job)
        except (RlcapError, ValueError, RuntimeError) as error:
            reasons[f"reward model {job.model.version} failed: {error}"] = None
            return np.full(len(job.captions), np.nan, dtype=np.float32)
        finite = np.isfinite(scores)
        if not finite.all():
            reasons[f"reward model {job.model.version} gave scores that are not finite"] = None
        return np.where(finite, scores, np.float32(np.nan))

    def _score_alone(self, job: _Job) -> Float32[np.ndarray, " batch"]:
        size = self._max_batch_size
        parts = [
            job.model.score(job.audio, job.captions[start : start + size], job.clip_index[start : start + size])
            for start in range(0, len(job.captions), size)
        ]
        return np.concatenate(parts)


def _embedding(model: VersionedModel, clip: Clip, reasons: dict[str, None]) -> Float32[np.ndarray, " dim"] | None:
    try:
        embedding: Float32[np.ndarray, " dim"] = model.embed_audio([clip])[0]
    except (RlcapError, ValueError, RuntimeError) as error:
        reasons[f"clip {clip.clip_id!r} cannot be embedded: {error}"] = None
        return None
    if not np.isfinite(embedding).all():
        reasons[f"clip {clip.clip_id!r} has an embedding that is not finite"] = None
        return None
    return embedding


def _score_together(jobs: Sequence[_Job]) -> list[Float32[np.ndarray, " batch"]]:
    """Score jobs in one pass for each model among them: around a swap there can be two."""
    results: dict[int, Float32[np.ndarray, " batch"]] = {}
    for version in dict.fromkeys(job.model.version for job in jobs):
        numbers = [number for number, job in enumerate(jobs) if job.model.version == version]
        chosen = [jobs[number] for number in numbers]
        offsets = np.cumsum([0, *(len(job.audio) for job in chosen)])
        scores = chosen[0].model.score(
            np.concatenate([job.audio for job in chosen]),
            [caption for job in chosen for caption in job.captions],
            np.concatenate([job.clip_index + offset for job, offset in zip(chosen, offsets[:-1], strict=True)]),
        )
        ends = np.cumsum([len(job.captions) for job in chosen])
        results.update(zip(numbers, np.split(scores, ends[:-1]), strict=True))
    return [results[number] for number in range(len(jobs))]
