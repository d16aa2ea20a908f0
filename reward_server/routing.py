"""Which shard owns which clip: rendezvous hashing (Thaler and Ravishankar, 1998)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def owner(clip_id: str, shards: Sequence[str]) -> str:
    """Name of the shard that owns a clip: the one with the highest hash of (shard, clip).

    The same in every process and every order of `shards`; without one of them, only its clips move.
    Raises ValueError where there are no shards.
    """
    if not shards:
        raise ValueError("clips cannot be routed without shards")
    return max(shards, key=lambda shard: (_weight(shard, clip_id), shard))


def _weight(shard: str, clip_id: str) -> bytes:
    # The key separates the two texts: ("a", "bc") and ("ab", "c") hash apart.
    key = hashlib.blake2b(shard.encode(), digest_size=32).digest()
    return hashlib.blake2b(clip_id.encode(), key=key, digest_size=8).digest()
