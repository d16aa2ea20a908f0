"""Pairs that need no votes: what the captions of the CLAP's own clips say about matching."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from rlcap.pipeline.clips import SplitClips
from rlcap.pipeline.listening import EmbeddedClips, HeardClips
from rlcap.preferences.pairs import PreferencePair
from rlcap.soundscapes.scene import Scene

OWN, FOREIGN = "own caption", "another clip's caption"
NUM_VOTES = 4
"""A matching pair weighs as much as a pair on which four annotators agree."""


def draw_matching_pairs(
    clips: SplitClips, heard: HeardClips | EmbeddedClips, pairs_per_clip: int, *, without: Collection[str], seed: int
) -> list[PreferencePair]:
    """Set each clip's own caption against captions of other clips, in random order.

    Votes on a weak captioner's captions hardly tell of sounds that it never names rightly, and PPO finds such gaps.
    Clips in which the same sounds are known to be heard are never set against each other. Clips in `without` get no
    pair, so that what is held out of the votes on them stays unseen.
    """
    captions, rng = clips.known_captions(), np.random.default_rng([seed, 3])
    pairs: list[PreferencePair] = []
    for clip_id, position in zip(heard.clip_ids, heard.positions, strict=True):
        if clip_id in without:
            continue
        for other in rng.choice(heard.positions, size=pairs_per_clip).tolist():
            own, foreign = captions[position][0], captions[other][0]
            if own == foreign or _same_sounds(clips.scenes[position], clips.scenes[other]):
                continue
            pair = PreferencePair(clip_id, own, foreign, (1,) * NUM_VOTES, OWN, FOREIGN)
            pairs.append(pair if rng.random() < 0.5 else pair.swapped())
    return pairs


def _same_sounds(scene: Scene | None, other: Scene | None) -> bool:
    return scene is not None and other is not None and set(scene.labels) == set(other.labels)
