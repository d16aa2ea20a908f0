"""What a set of preference pairs holds, and how far its annotators agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlcap.preferences.pairs import PreferencePair


@dataclass(frozen=True, slots=True)
class PairStatistics:
    """Figures over pairs; shares are None where nothing can be said."""

    num_pairs: int
    num_clips: int
    num_votes: int
    share_undecided: float
    """Pairs whose votes are level."""
    share_first: float | None
    """Of the decided pairs, those that caption A wins: far from a half, position and preference are mixed up."""
    agreement: float | None
    """How often a vote for A or B is that of the majority of the pair's other annotators: the ceiling of a model."""


def summarise_pairs(pairs: Sequence[PreferencePair]) -> PairStatistics:
    """Count pairs, clips and votes, and measure agreement. Raises ValueError for no pairs."""
    if not pairs:
        raise ValueError("there are no pairs to summarise")
    decided = [pair.majority for pair in pairs if pair.majority]
    return PairStatistics(
        num_pairs=len(pairs),
        num_clips=len({pair.clip_id for pair in pairs}),
        num_votes=sum(len(pair.votes) for pair in pairs),
        share_undecided=1 - len(decided) / len(pairs),
        share_first=_share(majority == 1 for majority in decided),
        agreement=_share(agrees for pair in pairs for agrees in _agreements(pair)),
    )


def _agreements(pair: PreferencePair) -> Iterable[bool]:
    """Tell for each vote whether it is that of the others' majority; silent votes and level others say nothing."""
    total = sum(pair.votes)
    return [vote * (total - vote) > 0 for vote in pair.votes if vote and total != vote]


def _share(outcomes: Iterable[bool]) -> float | None:
    found = list(outcomes)
    return sum(found) / len(found) if found else None
