"""One shard: scores captions of the clips that it owns, and remembers what it heard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from reward_server.cache import CacheCounts, EmbeddingCache
from reward_server.load_meter import LoadMeter, ShardLoad
from reward_server.messages import ShardScores
from reward_server.micro_batching import BatchCounts, MicroBatcher
from reward_server.versioned_model import VersionedModel
from rlcap.config.reward import RewardConfig
from rlcap.errors import RlcapError
from rlcap.types import Clip

ReadClips = Callable[[Sequence[int]], list[Clip]]
"""Fetches clips of a request by their number in it."""
Embedding = Float32[np.ndarray, " dim"]
BYTES_PER_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class _Job:
    """One request on its way through the model."""

    model: VersionedModel
    clip_ids: Sequence[str]
    embedded: Mapping[int, Embedding]
    """Embeddings that were in the cache when the request came, by number of the clip."""
    clips: Mapping[int, Clip]
    """Audio of the others, where it could be fetched."""
    captions: Sequence[str]
    clip_index: Int64[np.ndarray, " batch"]
    reasons: dict[str, None]
    """Why scores are missing, each reason once."""


@dataclass(frozen=True, slots=True)
class _Part:
    """The captions of a job whose clips could be embedded, as the model reads them."""

    audio: list[Embedding]
    captions: list[str]
    clip_index: Int64[np.ndarray, " part"]
    rows: Int64[np.ndarray, " part"]
    """Their places in the job."""


class Shard:
    """Scores requests by the models they name. Threads may call `score` at once; one pass runs at a time.

    With `config.deterministic` a request is scored by itself, and its scores do not depend on the cache or on other
    requests to the last bit; without, the captions of several requests share passes of the text tower.
    """

    def __init__(self, name: str, config: RewardConfig) -> None:
        self.name = name
        self._cache = EmbeddingCache(int(config.cache_mb * BYTES_PER_MB))
        self._cache_lock = threading.Lock()
        self._max_batch_size = config.max_batch_size
        self._meter = LoadMeter()
        self._num_embedded = 0
        self._batcher: MicroBatcher[_Job, Float32[np.ndarray, " batch"]] = MicroBatcher(
            self._run,
            lambda job: len(job.captions),
            max_size=config.max_batch_size,
            max_wait_s=config.max_wait_ms / 1000,
            max_queued=config.max_queued,
            merge=not config.deterministic,
        )

    def score(
        self,
        model: VersionedModel,
        clip_ids: Sequence[str],
        read_clips: ReadClips,
        captions: Sequence[str],
        clip_index: Int64[np.ndarray, " batch"],
    ) -> ShardScores:
        """Score `captions[i]` against clip `clip_index[i]`; `read_clips` is asked for clips that are not cached.

        What `read_clips` raises passes through, but for an `RlcapError`, which fails those clips' captions.
        """
        ticket = self._meter.begin()
        try:
            job = self._job(model, clip_ids, read_clips, captions, clip_index)
            scores = self._batcher.submit(job)
        except BaseException:
            self._meter.cancel(ticket)
            raise
        failed = np.isnan(scores)
        self._meter.end(ticket, len(captions), int(failed.sum()))
        return ShardScores(scores, failed, tuple(f"{self.name}: {reason}" for reason in job.reasons), model.version)

    def cache_counts(self) -> CacheCounts:
        """What the cache of audio embeddings has done so far."""
        with self._cache_lock:
            return self._cache.counts()

    @property
    def num_embedded(self) -> int:
        """Passes of the audio tower so far: one clip each."""
        return self._num_embedded

    def batch_counts(self) -> BatchCounts:
        """What the queue in front of the model has done so far."""
        return self._batcher.counts()

    def load(self) -> ShardLoad:
        """Requests and their latency."""
        return self._meter.load()

    def _job(
        self,
        model: VersionedModel,
        clip_ids: Sequence[str],
        read_clips: ReadClips,
        captions: Sequence[str],
        clip_index: Int64[np.ndarray, " batch"],
    ) -> _Job:
        """Fetch the audio that the cache does not know, while others are being scored."""
        with self._cache_lock:
            found = [self._cache.get((model.encoder_fingerprint, clip_id)) for clip_id in clip_ids]
        embedded = {number: embedding for number, embedding in enumerate(found) if embedding is not None}
        missing = [number for number, embedding in enumerate(found) if embedding is None]
        clips: list[Clip] = []
        reasons: dict[str, None] = {}
        try:
            clips = read_clips(missing) if missing else []
        except RlcapError as error:
            reasons[f"the audio of {len(missing)} clips could not be fetched: {error}"] = None
        return _Job(model, clip_ids, embedded, dict(zip(missing, clips, strict=False)), captions, clip_index, reasons)

    def _run(self, jobs: Sequence[_Job]) -> list[Float32[np.ndarray, " batch"]]:
        """Score jobs in one pass for each model among them: around a swap there can be two."""
        results = [np.full(len(job.captions), np.nan, dtype=np.float32) for job in jobs]
        for version in dict.fromkeys(job.model.version for job in jobs):
            numbers = [number for number, job in enumerate(jobs) if job.model.version == version]
            chosen = [jobs[number] for number in numbers]
            parts = [self._part(job) for job in chosen]
            for number, part, scores in zip(numbers, parts, self._score_together(chosen, parts), strict=True):
                results[number][part.rows] = scores
        return results

    def _part(self, job: _Job) -> _Part:
        """The captions of a job whose clips could be embedded."""
        found = [self._embedding(job, number) for number in range(len(job.clip_ids))]
        heard = np.array([embedding is not None for embedding in found], dtype=bool)
        rows = np.flatnonzero(heard[job.clip_index])
        audio = [embedding for embedding in found if embedding is not None]
        place = np.cumsum(heard) - 1
        return _Part(audio, [job.captions[row] for row in rows], place[job.clip_index[rows]], rows)

    def _embedding(self, job: _Job, number: int) -> Embedding | None:
        """The embedding of a clip; None, and a reason, where it cannot be had."""
        if number in job.embedded:
            return job.embedded[number]
        if number not in job.clips:
            return None
        key = (job.model.encoder_fingerprint, job.clip_ids[number])
        with self._cache_lock:
            embedding = self._cache.peek(key)  # a request just before may have brought the same clip
        if embedding is not None:
            return embedding
        self._num_embedded += 1
        embedding = _embed(job.model, job.clips[number], job.reasons)
        if embedding is not None:
            with self._cache_lock:
                self._cache.put(key, embedding)
        return embedding

    def _score_together(self, jobs: Sequence[_Job], parts: Sequence[_Part]) -> list[Float32[np.ndarray, " part"]]:
        """Score parts in one go; where that fails, each by itself, so that none falls with another."""
        try:
            scores = self._passes(jobs[0].model, parts)
        except (RlcapError, ValueError, RuntimeError) as error:
            if len(jobs) > 1:
                return [self._score_together([job], [part])[0] for job, part in zip(jobs, parts, strict=True)]
            jobs[0].reasons[f"reward model {jobs[0].model.version} failed: {error}"] = None
            return [np.full(len(parts[0].captions), np.nan, dtype=np.float32)]
        for job, found in zip(jobs, scores, strict=True):
            finite = np.isfinite(found)
            if not finite.all():
                job.reasons[f"reward model {job.model.version} gave scores that are not finite"] = None
                found[~finite] = np.nan
        return scores

    def _passes(self, model: VersionedModel, parts: Sequence[_Part]) -> list[Float32[np.ndarray, " part"]]:
        """Score the captions of all parts, `max_batch_size` at a time."""
        captions = [caption for part in parts for caption in part.captions]
        if not captions:
            return [np.zeros(0, dtype=np.float32) for _ in parts]
        audio = np.stack([embedding for part in parts for embedding in part.audio])
        offsets = np.cumsum([0, *(len(part.audio) for part in parts[:-1])])
        clip_index = np.concatenate([part.clip_index + offset for part, offset in zip(parts, offsets, strict=True)])
        spans = [slice(start, start + self._max_batch_size) for start in range(0, len(captions), self._max_batch_size)]
        passes = [model.score(audio, captions[span], clip_index[span]) for span in spans]
        return np.split(np.concatenate(passes), np.cumsum([len(part.captions) for part in parts[:-1]]))


def _embed(model: VersionedModel, clip: Clip, reasons: dict[str, None]) -> Embedding | None:
    try:
        embedding: Embedding = model.embed_audio([clip])[0]
    except (RlcapError, ValueError, RuntimeError) as error:
        reasons[f"clip {clip.clip_id!r} cannot be embedded: {error}"] = None
        return None
    if not np.isfinite(embedding).all():
        reasons[f"clip {clip.clip_id!r} has an embedding that is not finite"] = None
        return None
    return embedding
