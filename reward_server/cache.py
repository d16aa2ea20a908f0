"""Audio embeddings of one shard: least recently used ones go first once a bound on bytes is reached."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

EmbeddingKey = tuple[str, str]
"""Encoder fingerprint and clip id."""


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """What a cache has done since it was made."""

    num_hits: int
    num_misses: int
    num_evicted: int
    num_entries: int
    num_bytes: int


class EmbeddingCache:
    """Least-recently-used cache of embeddings, bounded in bytes. Not safe for threads by itself."""

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes must be 0 or more, got {max_bytes}")
        self._max_bytes = max_bytes
        self._entries: OrderedDict[EmbeddingKey, Float32[np.ndarray, " dim"]] = OrderedDict()
        self._num_bytes = 0
        self._num_hits = 0
        self._num_misses = 0
        self._num_evicted = 0

    def get(self, key: EmbeddingKey) -> Float32[np.ndarray, " dim"] | None:
        """Return the embedding, now the most recently used, or None; counts a hit or a miss."""
        embedding = self._entries.get(key)
        if embedding is None:
            self._num_misses += 1
            return None
        self._num_hits += 1
        self._entries.move_to_end(key)
        return embedding

    def peek(self, key: EmbeddingKey) -> Float32[np.ndarray, " dim"] | None:
        """Return the embedding or None; neither counted nor noted as a use."""
        return self._entries.get(key)

    def put(self, key: EmbeddingKey, embedding: Float32[np.ndarray, " dim"]) -> None:
        """Keep a copy of an embedding; one that is larger than the whole cache is not kept."""
        self._forget(key)
        if embedding.nbytes > self._max_bytes:
            return
        # A row of a larger array would keep all of that array alive, uncounted.
        self._entries[key] = embedding.copy()
        self._num_bytes += embedding.nbytes
        while self._num_bytes > self._max_bytes:
            self._forget(next(iter(self._entries)))
            self._num_evicted += 1

    def counts(self) -> CacheCounts:
        """Hits, misses, evictions, and what is held now."""
        return CacheCounts(self._num_hits, self._num_misses, self._num_evicted, len(self._entries), self._num_bytes)

    def _forget(self, key: EmbeddingKey) -> None:
        embedding = self._entries.pop(key, None)
        if embedding is not None:
            self._num_bytes -= embedding.nbytes
