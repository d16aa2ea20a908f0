"""Captions that tell a scene: lower-case words without punctuation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlcap.soundscapes.lexicon import Lexicon
from rlcap.soundscapes.phrasings import Phrasing
from rlcap.soundscapes.scene import Relation, Scene, SceneEvent

COUNT_PHRASES = {1: "once", 2: "twice", 3: "three times", 4: "four times", 5: "five times"}
SHARE_ONCE = 0.4
"""How often a caption says that something sounds a single time."""

CLAUSE_JOINS = {Relation.overlapping: ("while", "as"), Relation.before: ("then", "and then", "before")}
NOUN_JOINS = {Relation.overlapping: ("with", "amid"), Relation.before: ("followed by", "then", "and then")}
SOLO_FRAMES = ("{clause}", "{noun}", "{noun} can be heard", "the sound of {noun}")
# A pair of clauses may also be told the other way round; the second of these frames puts both after the join.
PAIR_FRAMES = {
    Relation.overlapping: ("{second} while {first}", "{second} as {first}", "while {first} {second}"),
    Relation.before: ("{second} after {first}", "after {first} {second}"),
}
SHARE_PAIR_FRAMES = 0.4


def write_caption(scene: Scene, lexicon: Lexicon, rng: np.random.Generator) -> str:
    """Tell every event of the scene, with its count and its place in time.

    Raises ValueError for a scene without events, KeyError for a label that the lexicon lacks.
    """
    if not scene.events:
        raise ValueError("a scene without events has no caption")
    if len(scene.events) == 1 and not scene.events[0].count:
        return _solo(lexicon.phrasing(scene.events[0].label), rng)
    relations = [_told(first, second) for first, second in zip(scene.events, scene.events[1:], strict=False)]
    if len(scene.events) == 2 and rng.random() < SHARE_PAIR_FRAMES:
        first, second = (_counted(_pick(lexicon.phrasing(e.label).clauses, rng), e.count, rng) for e in scene.events)
        return _pick(PAIR_FRAMES[relations[0]], rng).format(first=first, second=second)
    in_clauses = rng.random() < 0.6
    caption = _tell(scene.events[0], lexicon, rng, in_clauses=in_clauses)
    joins = CLAUSE_JOINS if in_clauses else NOUN_JOINS
    for relation, event in zip(relations, scene.events[1:], strict=True):
        caption += f" {_pick(joins[relation], rng)} {_tell(event, lexicon, rng, in_clauses=in_clauses)}"
    return caption


def vocabulary(lexicon: Lexicon) -> list[str]:
    """Every word that `write_caption` can use, sorted."""
    phrases = [*COUNT_PHRASES.values()]
    for joins in (CLAUSE_JOINS, NOUN_JOINS, PAIR_FRAMES):
        phrases += [phrase for group in joins.values() for phrase in group]
    phrases += SOLO_FRAMES
    for phrasing in lexicon.phrasings.values():
        phrases += [*phrasing.clauses, *phrasing.nouns]
    return sorted({word for phrase in phrases for word in phrase.split() if not word.startswith("{")})


def _told(first: SceneEvent, second: SceneEvent) -> Relation:
    """Events come in order of onset, so none is told as coming after the next."""
    relation = first.relation_to(second)
    return Relation.before if relation is Relation.after else relation


def _solo(phrasing: Phrasing, rng: np.random.Generator) -> str:
    clause, noun = _pick(phrasing.clauses, rng), _pick(phrasing.nouns, rng)
    if noun.startswith("the "):
        return _pick((clause, noun), rng)
    return _pick(SOLO_FRAMES, rng).format(clause=clause, noun=noun)


def _tell(event: SceneEvent, lexicon: Lexicon, rng: np.random.Generator, *, in_clauses: bool) -> str:
    phrasing = lexicon.phrasing(event.label)
    return _counted(_pick(phrasing.clauses if in_clauses else phrasing.nouns, rng), event.count, rng)


def _counted(phrase: str, count: int, rng: np.random.Generator) -> str:
    """Say how often, as far as the grammar can count."""
    if count not in COUNT_PHRASES or (count == 1 and rng.random() >= SHARE_ONCE):
        return phrase
    return f"{phrase} {COUNT_PHRASES[count]}"


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
