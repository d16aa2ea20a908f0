"""Four simulated annotators who know the scene, each with a taste, and now and then a slip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlcap.preferences.assessment import Assessment, assess
from rlcap.preferences.reading import read_caption
from rlcap.soundscapes.lexicon import Lexicon
from rlcap.soundscapes.scene import Scene

Votes = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """What one annotator cares about: utility per finding of an `Assessment`."""

    recall: float
    """For naming every sound of the scene."""
    invented: float
    """Cost of each sound that is not there."""
    order: float
    """For a true order of events; the same is lost for a false one."""
    counts: float
    """For true counts; the same is lost for false ones."""
    faults: float
    """Cost of each fault of grammar, two at most."""
    repeats: float
    """Cost of each sound named again, and of a caption made of repeated trigrams."""
    stray: float
    """Cost of a caption made of words that name nothing known."""
    wordiness: float
    """Cost of each word beyond a comfortable length."""

    def utility(self, found: Assessment) -> float:
        """How much this annotator likes a caption."""
        return (
            self.recall * found.recall
            - self.invented * found.num_invented
            + self.order * found.order
            + self.counts * found.counts
            - self.faults * min(2, found.num_faults)
            - self.repeats * (found.num_repeats + found.repetition)
            - self.stray * found.stray_share
            - self.wordiness * max(0, found.num_words - COMFORTABLE_NUM_WORDS)
        )


COMFORTABLE_NUM_WORDS = 18
TEMPERATURE = 0.5
"""Of the Bradley-Terry choice: at this value one annotator agrees with the majority of the others in about 90 %."""
TIE_MARGIN = 0.05
"""Utilities closer than this are a tie."""
SHARE_UNDECIDED = 0.02
"""How often an annotator votes 0 although one caption is better."""

TASTES: tuple[Taste, Taste, Taste, Taste] = (
    Taste(recall=3.2, invented=0.7, order=0.5, counts=0.4, faults=0.8, repeats=0.8, stray=1.0, wordiness=0.05),
    Taste(recall=2.8, invented=1.0, order=0.6, counts=0.3, faults=1.2, repeats=0.7, stray=1.5, wordiness=0.10),
    Taste(recall=3.0, invented=0.8, order=0.3, counts=0.6, faults=0.7, repeats=1.0, stray=1.0, wordiness=0.08),
    Taste(recall=2.8, invented=0.6, order=0.4, counts=0.5, faults=1.0, repeats=1.2, stray=0.8, wordiness=0.04),
)
"""The thorough, the strict, the counter and the stylist."""


class Annotators:
    """The four annotators, reading with one lexicon."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon

    def judge_pair(self, scene: Scene, caption_a: str, caption_b: str, rng: np.random.Generator) -> Votes:
        """Each annotator's vote: 1 for A, -1 for B, 0 for no preference.

        P(A) = sigmoid((utility A - utility B) / temperature), after Bradley and Terry (1952).
        """
        found_a, found_b = (assess(scene, read_caption(text, self._lexicon)) for text in (caption_a, caption_b))
        draws = rng.random((len(TASTES), 2))
        first, second, third, fourth = (
            _vote(taste.utility(found_a) - taste.utility(found_b), float(choice), float(attention))
            for taste, (choice, attention) in zip(TASTES, draws, strict=True)
        )
        return first, second, third, fourth


def _vote(advantage: float, choice: float, attention: float) -> int:
    if abs(advantage) < TIE_MARGIN or attention < SHARE_UNDECIDED:
        return 0
    return 1 if choice < _sigmoid(advantage / TEMPERATURE) else -1


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))
