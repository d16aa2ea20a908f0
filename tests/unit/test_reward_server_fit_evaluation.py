"""Fits are counted and scored by a fake: what they learn is tested beside the fit itself."""

from types import SimpleNamespace

import numpy as np
import pytest

from reward_server.fit_evaluation import evaluate_fit, num_fits
from rlcap.config.load import load_config
from rlcap.config.reward import FitReportConfig, HeadConfig
from rlcap.errors import ConfigError
from rlcap.evaluation.scored_pairs import ScoredPairs
from rlcap.preferences.pairs import PreferencePair

PAIRS = [PreferencePair(f"clip-{number // 2}", f"a {number}", "b", (1, 1)) for number in range(400)]
HEAD = HeadConfig(heldout_share=0.3)


def score(clip_ids, *, well):
    pairs = tuple(pair for pair in PAIRS if pair.clip_id in set(clip_ids))
    scores = np.full(len(pairs), 1.0 if well else -1.0, dtype=np.float32)
    return ScoredPairs(pairs, scores, np.zeros_like(scores))


@pytest.fixture
def fits():
    """Return a fit that orders pairs well where it had more than half of the clips, and keeps what it was given."""
    given = []

    def fit(split):
        given.append(split)
        return SimpleNamespace(heldout=score(split.heldout, well=len(split.training) > 100))

    fit.given = given
    return fit


def evaluate(fits, **settings):
    config = FitReportConfig(**settings)
    heldout = score([f"clip-{number}" for number in range(60)], well=True)
    report = evaluate_fit(heldout, PAIRS, fits, HEAD, config, seed=0)
    assert len(fits.given) == num_fits(config)
    return report


def test_the_learning_curve_repeats_the_fit_on_parts_of_the_clips_and_measures_on_the_same_ones(fits):
    curve = evaluate(fits, learning_curve=[1.0, 0.25]).learning_curve
    assert [point.share for point in curve] == [0.25, 1.0]
    assert [point.accuracy.mean for point in curve] == [0.0, 1.0]
    assert curve[0].num_clips == len(fits.given[0].training)
    assert [point.num_pairs for point in curve] == [2 * point.num_clips for point in curve]


def test_folds_measure_every_clip_and_none_is_asked_for_unless_wanted(fits):
    folds = evaluate(fits, learning_curve=[], num_folds=4).folds
    assert folds.num_folds == 4
    assert folds.figures.overall.num_pairs == len(PAIRS)
    assert folds.figures.overall.num_clips == 200
    fits.given.clear()
    assert evaluate(fits, learning_curve=[]).folds is None


def test_shares_and_folds_that_cannot_be_fitted_are_refused():
    with pytest.raises(ConfigError) as caught:
        load_config(["reward.fit_report.learning_curve=[0,2]", "reward.fit_report.num_folds=1"])
    assert "reward.fit_report.learning_curve must list shares in (0, 1], got [0.0, 2.0]" in str(caught.value)
    assert "reward.fit_report.num_folds must be 0 or at least 2, got 1" in str(caught.value)
