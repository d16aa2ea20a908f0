"""Which clips train a fit, which decide when it stops, and which measure it: clips, not pairs, are split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil


@dataclass(frozen=True, slots=True)
class ClipSplit:
    """Ids of the clips of each part, in an order drawn at random; a clip that is in none of them is not used."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    heldout: tuple[str, ...]

    @classmethod
    def draw(cls, clip_ids: Iterable[str], heldout_share: float, validation_share: float, *, seed: int) -> ClipSplit:
        """Split off about these shares of the clips.

        Where a clip goes depends on its id and the seed alone, so more clips never move it.
        """
        place = _places(clip_ids, seed)
        end = heldout_share + validation_share
        return cls(
            training=tuple(clip_id for clip_id in place if place[clip_id] >= end),
            validation=tuple(clip_id for clip_id in place if heldout_share <= place[clip_id] < end),
            heldout=tuple(clip_id for clip_id in place if place[clip_id] < heldout_share),
        )

    def train_on(self, share: float) -> ClipSplit:
        """Keep this share of the training clips; those of a smaller share are among those of a larger one."""
        return replace(self, training=self.training[: ceil(share * len(self.training))])


def draw_folds(clip_ids: Iterable[str], num_folds: int, validation_share: float, *, seed: int) -> tuple[ClipSplit, ...]:
    """Splits of which each clip is held out by exactly one; `validation_share` is of all clips."""
    drawn = tuple(_places(clip_ids, seed))
    num_validation = ceil(validation_share * len(drawn))
    edges = pairwise(fold * len(drawn) // num_folds for fold in range(num_folds + 1))
    parts = ((drawn[end:] + drawn[:start], drawn[start:end]) for start, end in edges)
    return tuple(ClipSplit(others[num_validation:], others[:num_validation], heldout) for others, heldout in parts)


def _places(clip_ids: Iterable[str], seed: int) -> dict[str, float]:
    """The place of each clip in [0, 1), in ascending order."""
    place = {clip_id: _position(clip_id, seed) for clip_id in sorted(set(clip_ids))}
    return dict(sorted(place.items(), key=lambda item: item[1]))


def _position(clip_id: str, seed: int) -> float:
    """Hash a clip id to a number in [0, 1)."""
    digest = hashlib.blake2b(clip_id.encode(), digest_size=8, key=seed.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") / 2**64
