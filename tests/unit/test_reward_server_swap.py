import numpy as np
import pytest

from reward_server.swap import judge_candidate, rank_agreement
from rlcap.config.reward import ProbeConfig

LIVE = np.array([1, 2, 3, 4], dtype=np.float32)
NAN = float("nan")


def report(scores, reasons=(), **limits):
    found = np.array(scores, dtype=np.float32)
    return judge_candidate(("live", "new"), LIVE, found, reasons, ProbeConfig(**limits))


def test_a_sound_candidate_is_reported_without_fault():
    found = report((10, 30, 20, 40), min_rank_agreement=0.5)
    assert found.faults == ()
    assert (found.live_version, found.candidate_version, found.num_scores) == ("live", "new", 4)
    assert found.rank_agreement == pytest.approx(0.8)
    assert found.spread == pytest.approx(np.std([10, 20, 30, 40]))


@pytest.mark.parametrize(
    ("scores", "limits", "fault"),
    [
        ((1, NAN, 3, 4), {}, "1 of its 4 scores are missing: the tower fell"),
        ((NAN,) * 4, {}, "4 of its 4 scores are missing: the tower fell"),
        ((2, 2, 2, 2), {}, "its scores spread by 0, less than min_spread 1e-06"),
        ((4, 3, 2, 1), {"min_rank_agreement": 0.5}, "its rank agreement -1.000 is below min_rank_agreement 0.500"),
    ],
)
def test_a_fault_is_named_with_its_figures(scores, limits, fault):
    assert fault in report(scores, ["the tower fell"], **limits).faults


def test_rank_agreement_is_over_captions_that_both_could_score():
    candidate = np.array([10, NAN, 30, 20], dtype=np.float32)
    assert rank_agreement(LIVE, candidate) == pytest.approx(0.5)
    assert rank_agreement(LIVE, np.full(4, 2, dtype=np.float32)) is None
    assert rank_agreement(LIVE, np.array([1, NAN, NAN, NAN], dtype=np.float32)) is None
