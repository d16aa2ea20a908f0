"""Read what a caption claims: which sounds, how often, in which order, and whether it reads as English."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from rlcap.preferences.words import ADVERBS_OF_COUNT, FILLERS, JOINS, NUMBERS, OTHER_CLASS, WORD_CLASSES, stem
from rlcap.soundscapes.lexicon import Lexicon
from rlcap.soundscapes.scene import Relation


class Fault(Enum):
    """What makes a caption read badly."""

    empty = "empty"
    unfinished = "unfinished"
    """It, or one of its parts, stops before it has named a sound: "a dog barks while a"."""
    doubled = "doubled"
    """A word stands twice in a row."""
    garbled = "garbled"
    """Words that cannot follow each other: "of while", "the is"."""
    run_on = "run_on"
    """Two sounds without a word that joins them."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One sound that a caption names."""

    label: str
    count: int | None = None
    """How often, where the caption says so."""


@dataclass(frozen=True, slots=True)
class CaptionClaims:
    """What a reader takes from a caption."""

    claims: tuple[Claim, ...]
    """In order of telling."""
    relations: tuple[Relation | None, ...]
    """How each claim stands in time to the next; None where the caption leaves it open. One fewer than claims."""
    num_words: int
    stray_share: float
    """Share of words that belong to no claim, join, count or filler."""
    repetition: float
    """Share of trigrams that have occurred before in the caption."""
    faults: frozenset[Fault]

    @property
    def labels(self) -> tuple[str, ...]:
        """Distinct labels, in order of telling."""
        return tuple(dict.fromkeys(claim.label for claim in self.claims))

    @property
    def num_repeats(self) -> int:
        """Claims of a sound that was named before."""
        return len(self.claims) - len(set(self.labels))


def read_caption(text: str, lexicon: Lexicon) -> CaptionClaims:
    """Read any text; words that the lexicon does not know count as stray."""
    return _reader_of(lexicon).read(text)


def repeated_share(words: Sequence[str], order: int = 3) -> float:
    """Share of n-grams that repeat an earlier one; 0 for fewer words than `order`."""
    num_ngrams = len(words) - order + 1
    if num_ngrams < 2:
        return 0.0
    distinct = set(zip(*(words[shift:] for shift in range(order)), strict=False))
    return 1 - len(distinct) / num_ngrams


_WORDS = re.compile(r"[^\W_]+(?:'[^\W_]+)?|,")
_DOUBLED = re.compile(r"(?<![^ ])([^ ,]+) \1(?![^ ])")
# Letters are those of WORD_CLASSES.
_UNFINISHED = re.compile(r"[axpbtsf&]$")
_GARBLED = re.compile(r"^[&tfxpbn]|a[^w]|x[xtsf&n]|[pb][xptsf&n]|[ts][tsfx&bpn]|f[^b]|&[&xpbn]")

# How the first sound stands to the second where a join opens the caption.
_OPENED: dict[Relation | None, Relation] = {
    Relation.after: Relation.before,
    Relation.before: Relation.after,
    Relation.overlapping: Relation.overlapping,
}


class _Reader:
    """The phrases of one lexicon, indexed by stem."""

    def __init__(self, lexicon: Lexicon) -> None:
        bare_labels = [label for label in lexicon.labels if FILLERS.issuperset(label.split())]
        self._fillers = FILLERS.difference(*(label.split() for label in bare_labels))
        cores: dict[tuple[str, ...], str] = {}
        for label in lexicon.labels:
            phrasing = lexicon.phrasing(label)
            for name in (*phrasing.clauses, *phrasing.nouns, label):
                cores.setdefault(self._core(name), label)
        # Other names yield to the proper names of every label: "insects" may be a label of its own.
        for label in lexicon.labels:
            for name in lexicon.phrasing(label).synonyms:
                cores.setdefault(self._core(name), label)
        self._cores = cores
        self._known_stems = {part for core in cores for part in core}
        lengths: dict[str, set[int]] = {}
        for core in cores:
            lengths.setdefault(core[0], set()).add(len(core))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}

    def read(self, text: str) -> CaptionClaims:
        """Read one caption."""
        words = _WORDS.findall(text.lower())
        content = [word for word in words if word not in self._fillers]
        parse = self._parse(content, [stem(word) for word in content])
        num_words = len(words) - words.count(",")
        faults = parse.faults | _faults_of_form(words) if num_words else {Fault.empty}
        return CaptionClaims(
            claims=tuple(Claim(label, count) for label, count in zip(parse.labels, parse.counts, strict=True)),
            relations=tuple(parse.relations),
            num_words=num_words,
            stray_share=parse.num_stray / max(1, num_words),
            repetition=repeated_share(words),
            faults=frozenset(faults),
        )

    def _core(self, phrase: str) -> tuple[str, ...]:
        return tuple(stem(word) for word in _WORDS.findall(phrase.lower()) if word not in self._fillers)

    def _parse(self, words: list[str], stems: list[str]) -> _Parse:
        parse = _Parse()
        position = 0
        while position < len(words):
            core_length = self._match(stems, position)
            if core_length:
                parse.name(self._cores[tuple(stems[position : position + core_length])])
                position += core_length
                continue
            word = words[position]
            if word in JOINS:
                parse.join(word)
            elif word in ADVERBS_OF_COUNT:
                parse.count(ADVERBS_OF_COUNT[word])
            elif word in NUMBERS and words[position + 1 : position + 2] == ["times"]:
                parse.count(NUMBERS[word])
                position += 1
            else:
                parse.stray(known=stems[position] in self._known_stems)
            position += 1
        parse.end()
        return parse

    def _match(self, stems: list[str], position: int) -> int:
        """Return the length of the longest phrase that starts here, or 0."""
        for length in self._lengths.get(stems[position], ()):
            if tuple(stems[position : position + length]) in self._cores:
                return length
        return 0


class _Parse:
    """The claims found so far, and the part of the caption since the last join."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.counts: list[int | None] = []
        self.relations: list[Relation | None] = []
        self.faults: set[Fault] = set()
        self.num_stray = 0
        self._opening: Relation | None = None
        self._joined: list[Relation | None] = []
        self._part_has_words = False
        self._part_names_something = False

    def name(self, label: str) -> None:
        """Take a phrase that names `label`."""
        if self.labels:
            self._relate()
        self.labels.append(label)
        self.counts.append(None)
        self._joined = []
        self._part_has_words = self._part_names_something = True

    def join(self, word: str) -> None:
        """Take a word that ends one part and begins the next."""
        relation = JOINS[word]
        if self._part_has_words and not self._part_names_something:
            self.faults.add(Fault.unfinished)
        if not self.labels and not self._part_has_words:
            # "after X Y" tells X first; "before X Y" tells Y first.
            self._opening = _OPENED.get(relation)
        self._joined.append(relation)
        self._part_has_words = self._part_names_something = False

    def count(self, times: int) -> None:
        """Take a count: of the sound just named, or of nothing."""
        if self.labels and self.counts[-1] is None and self._part_names_something:
            self.counts[-1] = times or None
        else:
            self.num_stray += 1

    def stray(self, *, known: bool) -> None:
        """Take a word without a place; a word that the lexicon does not know may name a sound of its own."""
        self.num_stray += 1
        self._part_has_words = True
        self._part_names_something |= not known

    def end(self) -> None:
        """Take the end of the caption."""
        if not self._part_names_something:
            self.faults.add(Fault.unfinished)

    def _relate(self) -> None:
        stated = [relation for relation in self._joined if relation is not None]
        if stated:
            self.relations.append(stated[-1])
            return
        if not self._joined and (len(self.labels) > 1 or self._opening is None):
            self.faults.add(Fault.run_on)
        self.relations.append(self._opening if not self._joined and len(self.labels) == 1 else None)


def _faults_of_form(words: list[str]) -> set[Fault]:
    """Faults that show in the sequence of word classes, whatever the words name."""
    classes = "".join([WORD_CLASSES.get(word, OTHER_CLASS) for word in words])
    faults: set[Fault] = set()
    if _UNFINISHED.search(classes):
        faults.add(Fault.unfinished)
    if _GARBLED.search(classes):
        faults.add(Fault.garbled)
    if _DOUBLED.search(" ".join(words)):
        faults.add(Fault.doubled)
    return faults


@lru_cache(maxsize=8)
def _reader_of(lexicon: Lexicon) -> _Reader:
    return _Reader(lexicon)
