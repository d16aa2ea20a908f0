"""Two reward models on the same captions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from rlcap.audio.encoding import to_flac
from rlcap.errors import DataError
from rlcap.evaluation.rank_agreement import Disagreement, RankAgreement, compare_rankings
from rlcap.pipeline.caption_scores import (
    ListedCaptions,
    OpenedReward,
    open_reward,
    read_captions,
    read_clip,
    score_captions,
)
from rlcap.report.compare_page import ComparedCaption, ComparedModel, ComparedPair, render_comparison
from rlcap.report.page import write_page

MAX_PAIRS = 40
"""Pairs of captions on the page."""


@dataclass(frozen=True, slots=True)
class RewardComparison:
    """What two reward models have in common."""

    agreement: RankAgreement
    num_left_out: int
    """Rows that one of the models could not score."""


@dataclass(frozen=True, slots=True)
class _ScoredByBoth:
    """Rows that both models have scored."""

    listed: ListedCaptions
    scores_a: Float32[np.ndarray, " row"]
    scores_b: Float32[np.ndarray, " row"]

    def caption(self, row: int) -> ComparedCaption:
        return ComparedCaption(self.listed.captions[row], float(self.scores_a[row]), float(self.scores_b[row]))

    def pair(self, found: Disagreement, reward: OpenedReward) -> ComparedPair:
        audio = self.listed.audio[found.preferred_by_a]
        heard = to_flac(read_clip(self.listed, audio, reward.limits))
        return ComparedPair(audio, self.caption(found.preferred_by_a), self.caption(found.preferred_by_b), heard)


def compare_rewards(path_a: Path, path_b: Path, manifest: Path, page: Path) -> RewardComparison:
    """Score a table by two reward models, and write a page on where they agree and where not.

    Raises:
        DataError: the table cannot be used, or none of its rows is scored by both models.
        CheckpointError: a path holds no reward model.
        ConfigError: the settings of a run cannot be read.
    """
    listed = read_captions(manifest)
    reward_a, reward_b = open_reward(path_a), open_reward(path_b)
    scored = _score(listed, reward_a, reward_b)
    num_left_out = len(listed.audio) - len(scored.listed.audio)
    agreement = compare_rankings(scored.listed.audio, scored.scores_a, scored.scores_b)
    models = ComparedModel(str(path_a), reward_a.model.version), ComparedModel(str(path_b), reward_b.model.version)
    pairs = [scored.pair(found, reward_a) for found in agreement.disagreements[:MAX_PAIRS]]
    page.parent.mkdir(parents=True, exist_ok=True)
    write_page(render_comparison(models, agreement, num_left_out, pairs), page)
    return RewardComparison(agreement, num_left_out)


def _score(listed: ListedCaptions, reward_a: OpenedReward, reward_b: OpenedReward) -> _ScoredByBoth:
    one, other = score_captions(listed, reward_a), score_captions(listed, reward_b)
    rows = np.flatnonzero(np.isfinite(one.scores) & np.isfinite(other.scores))
    if not len(rows):
        raise DataError(
            f"none of the {len(listed.audio)} rows is scored by both models; the first, "
            f"{listed.audio[0] or 'without audio'}: {one.reasons[0] or other.reasons[0]}"
        )
    kept = replace(
        listed,
        audio=tuple(listed.audio[row] for row in rows),
        captions=tuple(listed.captions[row] for row in rows),
        faults=("",) * len(rows),
    )
    return _ScoredByBoth(kept, one.scores[rows], other.scores[rows])
