"""The page on two reward models: how far they agree, and the captions on which they disagree most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlcap.evaluation.rank_agreement import RankAgreement
from rlcap.report.clips import data_uris
from rlcap.report.page import render_page


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """One of the two, as the page names it."""

    path: str
    version: str


@dataclass(frozen=True, slots=True)
class ComparedCaption:
    """A caption and its scores by both models."""

    text: str
    score_a: float
    score_b: float


@dataclass(frozen=True, slots=True)
class ComparedPair:
    """Two captions of a clip that the models put in opposite orders."""

    clip_id: str
    preferred_by_a: ComparedCaption
    preferred_by_b: ComparedCaption
    audio: bytes
    """An audio file to listen to."""


def render_comparison(
    models: tuple[ComparedModel, ComparedModel],
    agreement: RankAgreement,
    num_left_out: int,
    pairs: Sequence[ComparedPair],
) -> str:
    """Return the page; `pairs` are those to show, `num_left_out` rows lack a score by one of the models."""
    return render_page(
        "compare.html.jinja",
        models=models,
        agreement=agreement,
        num_left_out=num_left_out,
        pairs=list(zip(pairs, data_uris(pair.audio for pair in pairs), strict=True)),
    )
