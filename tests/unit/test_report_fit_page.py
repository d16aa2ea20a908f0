import json
import re
from dataclasses import asdict

import numpy as np
import pytest

from reward_server.fit_evaluation import CurvePoint, FitReport, FoldFigures
from rlcap.evaluation.scored_pairs import ScoredPairs, describe_scored_pairs, pair_accuracy
from rlcap.preferences.pairs import PreferencePair
from rlcap.report.fit_page import render_fit

COUNTS = {"num_train_pairs": 90, "num_matching_pairs": 10, "num_validation_pairs": 20, "num_heldout_pairs": 60}


@pytest.fixture
def report():
    """Return a function that makes the content of fit.json."""
    rng = np.random.default_rng(0)
    pairs = tuple(
        PreferencePair(f"clip-{number // 3}", "a", "b", (1, 1, -1), category="<i>M</i>" if number % 2 else "H")
        for number in range(60)
    )
    scored = ScoredPairs(pairs, rng.normal(0.4, 1, 60).astype(np.float32), np.zeros(60, dtype=np.float32))
    figures, accuracy = describe_scored_pairs(scored), pair_accuracy(scored)

    def make(**changes):
        curve = (CurvePoint(0.5, 20, 45, accuracy), CurvePoint(1.0, 40, 80, accuracy))
        parts = {"heldout": figures, "learning_curve": curve, "folds": FoldFigures(5, figures), **changes}
        return json.loads(json.dumps({"title": "reward-mlp-1", "training": COUNTS, **asdict(FitReport(**parts))}))

    return make


def text_of(page):
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", re.sub(r"<svg.*?</svg>", "", body, flags=re.DOTALL)))


def test_the_page_shows_every_figure(report):
    found = report()
    text = text_of(render_fit(found))
    overall, calibration = found["heldout"]["overall"], found["heldout"]["calibration"]
    for part in (
        "reward-mlp-1",
        "90 pairs to train on, 10 of them without votes",
        f"{overall['accuracy']['mean']:.0%} of the held-out pairs",
        f"{overall['accuracy']['low']:.1%} to {overall['accuracy']['high']:.1%}",
        f"expected calibration error is {calibration['expected_error']:.1%}",
        f"{calibration['bins'][0]['observed']:.1%}",
        "All clips in 5 parts",
        "50% 20 45",
    ):
        assert part in text
    assert "Not asked for" not in text


def test_the_page_has_two_plots_and_reaches_for_nothing_outside_itself(report):
    page = render_fit(report())
    assert page.count("<svg") == 2
    assert all(value.startswith(("#", "data:")) for value in re.findall(r'(?:src|href)="([^"]*)"', page))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_what_was_not_measured_is_said_to_be_missing(report):
    text = text_of(render_fit(report(learning_curve=(), folds=None)))
    assert text.count("Not asked for") == 2


def test_pairs_without_a_majority_leave_a_page_without_accuracy(report):
    pairs = (PreferencePair("clip", "a", "b", (1, -1)),)
    undecided = ScoredPairs(pairs, np.ones(1, dtype=np.float32), np.zeros(1, dtype=np.float32))
    curve = (CurvePoint(1.0, 1, 1, None),)
    page = render_fit(report(heldout=describe_scored_pairs(undecided), learning_curve=curve, folds=None))
    assert "No held-out pair has a majority." in text_of(page)


def test_words_of_a_file_are_text_and_never_markup(report):
    page = render_fit(report())
    assert "<i>M</i>" not in page
    assert "&lt;i&gt;M&lt;/i&gt;" in page


def test_the_same_figures_give_the_same_bytes(report):
    assert render_fit(report()) == render_fit(report())
