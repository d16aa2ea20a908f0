"""The evaluation panel: three judges who know the scene, are free of noise, and are not the annotators."""

from __future__ import annotations

from dataclasses import dataclass

from rlcap.preferences.assessment import Assessment, assess
from rlcap.preferences.reading import read_caption
from rlcap.soundscapes.lexicon import Lexicon
from rlcap.soundscapes.scene import Scene

TIE_MARGIN = 1e-6
COMFORTABLE_NUM_WORDS = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """One judge's weights. Unlike an annotator, a judge gives a bonus for a caption that names exactly what sounds."""

    exact: float
    recall: float
    invented: float
    order: float
    counts: float
    ungrammatical: float
    repetitive: float
    stray: float

    def quality(self, found: Assessment) -> float:
        """Score a caption; higher is better, and words beyond a comfortable length only cost."""
        return (
            self.exact * found.names_exactly
            + self.recall * found.recall
            - self.invented * found.num_invented
            + self.order * found.order
            + self.counts * found.counts
            - self.ungrammatical * (found.num_faults > 0)
            - self.repetitive * min(1.0, found.num_repeats + found.repetition)
            - self.stray * found.stray_share
            - 0.05 * max(0, found.num_words - COMFORTABLE_NUM_WORDS)
        )


JUDGES: tuple[Judge, ...] = (
    Judge(exact=1.0, recall=3.0, invented=1.2, order=0.4, counts=0.3, ungrammatical=1.5, repetitive=1.5, stray=1.0),
    Judge(exact=0.5, recall=4.0, invented=1.5, order=0.6, counts=0.5, ungrammatical=2.0, repetitive=1.5, stray=1.5),
    Judge(exact=1.5, recall=2.5, invented=1.0, order=0.3, counts=0.4, ungrammatical=1.8, repetitive=2.0, stray=1.2),
)


class JudgePanel:
    """The judges, reading with one lexicon."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon

    def verdict(self, scene: Scene, caption_a: str, caption_b: str) -> float:
        """1 where most judges prefer A, 0 where most prefer B, 0.5 where they are even."""
        found_a, found_b = self._assess(scene, caption_a), self._assess(scene, caption_b)
        balance = 0
        for judge in JUDGES:
            advantage = judge.quality(found_a) - judge.quality(found_b)
            balance += (advantage > TIE_MARGIN) - (advantage < -TIE_MARGIN)
        return 0.5 * (1 + (balance > 0) - (balance < 0))

    def named_right(self, scene: Scene, caption: str) -> bool:
        """Whether the caption names all the sounds of the scene and no others; order and counts do not matter."""
        return self._assess(scene, caption).names_exactly

    def quality(self, scene: Scene, caption: str) -> float:
        """Mean score of the judges; higher is better."""
        found = self._assess(scene, caption)
        return sum(judge.quality(found) for judge in JUDGES) / len(JUDGES)

    def _assess(self, scene: Scene, caption: str) -> Assessment:
        return assess(scene, read_caption(caption, self._lexicon))
