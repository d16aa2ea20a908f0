"""The words for sounds: which phrases name a label."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rlcap.soundscapes.phrasings import OTHER_NAMES, PHRASINGS, Phrasing


def canonical_label(label: str) -> str:
    """One spelling for a label: "Dog_Bark", "dog-bark" and "dog" are all "dog bark".

    Raises ValueError for a label without a letter or digit.
    """
    plain = " ".join(re.findall(r"[^\W_]+", label.lower()))
    if not plain:
        raise ValueError(f"a label must hold a letter or digit, got {label!r}")
    return OTHER_NAMES.get(plain, plain)


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Lexicon:
    """Maps each label to its phrasings. Compared and hashed by identity, so that readers can be kept for it."""

    phrasings: Mapping[str, Phrasing]

    @classmethod
    def for_labels(cls, labels: Iterable[str]) -> Lexicon:
        """Make a lexicon of these labels' canonical spellings; unknown labels get phrasings made of their words."""
        canonical = dict.fromkeys(canonical_label(label) for label in labels)
        return cls(MappingProxyType({label: PHRASINGS.get(label) or _made_of_words(label) for label in canonical}))

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label, in the order given."""
        return tuple(self.phrasings)

    def phrasing(self, label: str) -> Phrasing:
        """Return the phrasings of a label. Raises KeyError for one that the lexicon lacks."""
        if label not in self.phrasings:
            raise KeyError(f"the lexicon has no label {label!r}; known here: {', '.join(self.phrasings)}")
        return self.phrasings[label]

    def names(self, label: str) -> tuple[str, ...]:
        """Every phrase that a reader takes for `label`."""
        phrasing = self.phrasing(label)
        return (*phrasing.clauses, *phrasing.nouns, *phrasing.synonyms, label)


def _made_of_words(label: str) -> Phrasing:
    return Phrasing(clauses=(f"{label} can be heard",), nouns=(f"the sound of {label}",))
