import json
from statistics import fmean, pstdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.normaliser import RewardNormaliser

scores = st.lists(st.floats(-100, 100, width=32), max_size=8)


@given(st.lists(scores, min_size=1, max_size=5))
def test_statistics_in_batches_equal_those_of_all_scores_at_once(batches):
    normaliser = RewardNormaliser()
    for batch in batches:
        normaliser.observe(np.array(batch, dtype=np.float32), "v1")
    everything = [score for batch in batches for score in batch]
    assert normaliser.count == len(everything)
    if everything:
        assert normaliser.mean == pytest.approx(fmean(everything), abs=1e-9)
        assert normaliser.std == pytest.approx(pstdev(everything), abs=1e-6)


def test_a_new_reward_version_begins_anew():
    normaliser = RewardNormaliser()
    normaliser.observe(np.array([100.0, 300.0], dtype=np.float32), "v1")
    normaliser.observe(np.array([0.0, 2.0], dtype=np.float32), "v2")
    assert (normaliser.reward_version, normaliser.count, normaliser.mean, normaliser.std) == ("v2", 2, 1.0, 1.0)


def test_an_empty_batch_of_a_new_version_forgets_the_old_scale_too():
    normaliser = RewardNormaliser()
    normaliser.observe(np.array([100.0, 300.0], dtype=np.float32), "v1")
    normaliser.observe(np.array([], dtype=np.float32), "v2")
    assert normaliser.count == 0


def test_large_offsets_do_not_drown_a_small_spread():
    normaliser = RewardNormaliser()
    for _ in range(100):
        normaliser.observe(np.array([4096.0, 4096.5], dtype=np.float32), "v1")
    assert normaliser.std == pytest.approx(0.25)


def test_equal_scores_normalise_to_zero():
    normaliser = RewardNormaliser()
    same = np.full(4, 0.3, dtype=np.float32)
    normaliser.observe(same, "v1")
    assert normaliser.normalise(same).tolist() == [0.0] * 4


def test_state_goes_through_json_unchanged():
    normaliser, resumed = RewardNormaliser(), RewardNormaliser()
    normaliser.observe(np.array([0.1, 0.7, -0.2], dtype=np.float32), "v1")
    resumed.load_state_dict(json.loads(json.dumps(normaliser.state_dict())))
    more = np.array([0.5], dtype=np.float32)
    normaliser.observe(more, "v1")
    resumed.observe(more, "v1")
    assert resumed.state_dict() == normaliser.state_dict()
