"""What is right and wrong in a caption, given what happens in the clip."""

from __future__ import annotations

from dataclasses import dataclass

from rlcap.preferences.reading import CaptionClaims, Fault
from rlcap.soundscapes.scene import Scene


@dataclass(frozen=True, slots=True)
class Assessment:
    """A caption's claims held against the scene. How much each finding matters is up to whoever judges."""

    num_right: int
    """Sounds of the scene that the caption names."""
    num_missing: int
    """Sounds of the scene that it leaves out."""
    num_invented: int
    """Sounds that it names and the scene lacks."""
    order: float
    """Stated relations that hold minus those that do not, over the relations there are to state: -1 to 1."""
    counts: float
    """Stated counts that hold minus those that do not, over the sounds to count: -1 to 1."""
    num_repeats: int
    """Sounds named again."""
    repetition: float
    """Share of repeated trigrams."""
    stray_share: float
    """Share of words that say nothing the reader understands."""
    num_faults: int
    """Ways in which the caption reads badly."""
    num_words: int

    @property
    def recall(self) -> float:
        """Share of the scene's sounds that are named; 1 for an empty scene."""
        return self.num_right / (self.num_right + self.num_missing) if self.num_right + self.num_missing else 1.0

    @property
    def names_exactly(self) -> bool:
        """Whether all the right sounds are named, and no wrong ones."""
        return not self.num_missing and not self.num_invented


def assess(scene: Scene, claims: CaptionClaims) -> Assessment:
    """Hold what a caption claims against the scene."""
    heard, named = set(scene.labels), set(claims.labels)
    return Assessment(
        num_right=len(heard & named),
        num_missing=len(heard - named),
        num_invented=len(named - heard),
        order=_order(scene, claims),
        counts=_counts(scene, claims),
        num_repeats=claims.num_repeats,
        repetition=claims.repetition,
        stray_share=claims.stray_share,
        num_faults=len(claims.faults - {Fault.empty}) if claims.num_words else len(Fault),
        num_words=claims.num_words,
    )


def _order(scene: Scene, claims: CaptionClaims) -> float:
    """Relations between a sound and itself, or one that is not there, say nothing about order."""
    balance = 0
    for first, second, stated in zip(claims.claims, claims.claims[1:], claims.relations, strict=False):
        true = scene.relation(first.label, second.label)
        if stated is None or true is None or first.label == second.label:
            continue
        balance += 1 if stated is true else -1
    return max(-1.0, min(1.0, balance / max(1, len(scene.labels) - 1)))


def _counts(scene: Scene, claims: CaptionClaims) -> float:
    """Counting a sound that goes on, such as rain, is as wrong as miscounting."""
    balance, num_countable = 0, sum(event.count > 0 for event in scene.events)
    for claim in claims.claims:
        event = scene.find(claim.label)
        if claim.count is not None and event is not None:
            balance += 1 if claim.count == event.count else -1
    return max(-1.0, min(1.0, balance / max(1, num_countable)))
