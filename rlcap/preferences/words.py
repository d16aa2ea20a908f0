"""What single words do in a caption: join, count, fill, or name; and the stem that inflections share."""

from __future__ import annotations

from functools import lru_cache

from rlcap.soundscapes.scene import Relation

JOINS: dict[str, Relation | None] = {
    **dict.fromkeys(("while", "as", "when", "with", "amid", "during", "alongside", "over"), Relation.overlapping),
    **dict.fromkeys(("then", "followed", "before"), Relation.before),
    "after": Relation.after,
    "and": None,
    ",": None,
}
"""How the sound before a join stands to the sound behind it; None where the join says nothing of time."""

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "several": 0, "many": 0, "multiple": 0}
ADVERBS_OF_COUNT = {"once": 1, "twice": 2, "thrice": 3}

_ARTICLES = frozenset(("a", "an", "the"))
_AUXILIARIES = frozenset(("is", "are", "be", "was", "were"))
_PREPOSITIONS = frozenset(("of", "to", "at", "from", "into", "onto", "by"))
_SETTINGS = frozenset(("background", "foreground", "distance", "distant", "nearby", "away", "in", "on", "off", "out"))
_MANNERS = frozenset(("loud", "loudly", "soft", "softly", "quietly", "repeatedly", "continuously", "up", "down"))
_PLACEHOLDERS = frozenset(("some", "someone", "somebody", "something", "it", "there", "can", "being", "heard"))
_SOUND_WORDS = frozenset(("sound", "sounds", "sounding", "noise", "noises"))
FILLERS = _ARTICLES | _AUXILIARIES | _PREPOSITIONS | _SETTINGS | _MANNERS | _PLACEHOLDERS | _SOUND_WORDS
"""Words that may stand inside a phrase without changing what it names."""

# One letter for what a word does, so that faults of a whole caption are one pattern over its letters.
WORD_CLASSES: dict[str, str] = {
    **dict.fromkeys(_ARTICLES, "a"),
    **dict.fromkeys(_AUXILIARIES, "x"),
    **dict.fromkeys(_PREPOSITIONS, "p"),
    **{word: "t" if relation is Relation.before else "s" for word, relation in JOINS.items()},
    **dict.fromkeys(ADVERBS_OF_COUNT, "n"),
    "before": "s",
    "followed": "f",
    "by": "b",
    "and": "&",
    ",": ",",
}
OTHER_CLASS = "w"


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Cut the endings that barks, barking and barked, or cry, cries and crying, do not share."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    word = word.rstrip("e") or word
    if len(word) >= 4 and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] + "i" if word.endswith("y") and len(word) >= 3 else word
