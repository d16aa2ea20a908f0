import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcap.evaluation.rank_agreement import compare_rankings


def scores(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_scores_that_differ_in_scale_alone_agree_entirely():
    found = compare_rankings("xxyy", scores(1, 2, 3, 4), scores(10, 20, 30, 41))
    assert found.spearman == pytest.approx(1)
    assert found.same_order is not None
    assert (found.same_order.mean, found.same_order.num_samples) == (1, 2)
    assert found.disagreements == ()


def test_only_captions_of_the_same_clip_are_paired():
    """Between clips the order is turned round, within them it is not."""
    found = compare_rankings("xxyy", scores(1, 2, 3, 4), scores(3, 4, 1, 2))
    assert found.same_order is not None
    assert found.same_order.mean == 1
    assert found.spearman is not None
    assert found.spearman < 0


def test_the_largest_disagreement_comes_first_and_says_who_prefers_what():
    found = compare_rankings("xxyy", scores(1, 0, 0, 5), scores(0, 1, 5, 0))
    assert [(each.preferred_by_a, each.preferred_by_b) for each in found.disagreements] == [(3, 2), (0, 1)]
    assert found.disagreements[0].size > found.disagreements[1].size


def test_a_tie_of_one_model_counts_half_and_of_both_is_agreement():
    found = compare_rankings("xxyy", scores(1, 1, 0, 0), scores(0, 1, 0, 0))
    assert found.same_order is not None
    assert found.same_order.mean == 0.75
    assert found.disagreements == ()


def test_clips_with_one_caption_and_models_without_spread_leave_figures_unsaid():
    assert compare_rankings("xyz", scores(1, 2, 3), scores(1, 2, 3)).same_order is None
    assert compare_rankings("xx", scores(1, 1), scores(1, 2)).spearman is None


def test_scores_that_are_none_are_refused():
    with pytest.raises(ValueError, match="finite"):
        compare_rankings("xx", scores(1, np.nan), scores(1, 2))
    with pytest.raises(ValueError, match="0 rows"):
        compare_rankings("", scores(), scores())


rows = st.lists(st.tuples(st.sampled_from("xyz"), st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=14)


@given(rows)
def test_pairs_are_counted_as_a_slow_count_does(given_rows):
    clips = [row[0] for row in given_rows]
    one, other = scores(*(row[1] for row in given_rows)), scores(*(row[2] for row in given_rows))
    counted = []
    for first in range(len(clips)):
        for second in range(first + 1, len(clips)):
            if clips[first] == clips[second]:
                signs = np.sign(one[first] - one[second]), np.sign(other[first] - other[second])
                counted.append(1 if signs[0] == signs[1] else 0.5 if 0 in signs else 0)
    found = compare_rankings(clips, one, other)
    assert (found.same_order and found.same_order.mean) == (pytest.approx(np.mean(counted)) if counted else None)
    assert len(found.disagreements) == counted.count(0)
