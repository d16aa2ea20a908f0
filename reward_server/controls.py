"""A reward spoiled on purpose: what PPO gains from it shows what an ordinary reward is worth."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from rlcap.types import RewardRequest


def hear_other_clips(request: RewardRequest) -> RewardRequest:
    """The same captions, each set against another clip of the request: every clip is moved, none is heard twice.

    Raises ValueError where the request holds a single clip, which has no other to be exchanged with.
    """
    return replace(request, clip_index=derangement([clip.clip_id for clip in request.clips])[request.clip_index])


def derangement(clip_ids: list[str]) -> Int64[np.ndarray, " clip"]:
    """For each clip, the number of another one: the next in the order of the hashes of their ids."""
    if len(clip_ids) < 2:
        raise ValueError(f"at least 2 clips are needed to exchange what is heard, got {len(clip_ids)}")
    order = sorted(range(len(clip_ids)), key=lambda number: (_hash(clip_ids[number]), number))
    other = np.empty(len(clip_ids), dtype=np.int64)
    other[order] = np.roll(order, -1)
    return other


def _hash(clip_id: str) -> bytes:
    return hashlib.blake2b(clip_id.encode(), digest_size=8).digest()
