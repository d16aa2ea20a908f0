from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcap.errors import DataError
from rlcap.evaluation.scored_pairs import ScoredPairs, calibrate, describe_scored_pairs, pair_accuracy
from rlcap.preferences.pairs import PreferencePair


def scored(*rows: tuple[str, tuple[int, ...], float, float], categories: str = "") -> ScoredPairs:
    """Rows of clip, votes, score of A and score of B."""
    pairs = tuple(
        PreferencePair(clip, f"a{number}", f"b{number}", votes, category=category)
        for number, ((clip, votes, _, _), category) in enumerate(zip(rows, categories or [""] * len(rows), strict=True))
    )
    scores = np.array([row[2:] for row in rows], dtype=np.float32).reshape(-1, 2)
    return ScoredPairs(pairs, scores[:, 0], scores[:, 1])


def swapped(pairs: ScoredPairs) -> ScoredPairs:
    return ScoredPairs(tuple(pair.swapped() for pair in pairs.pairs), pairs.scores_b, pairs.scores_a)


def test_accuracy_counts_equal_scores_half_and_leaves_undecided_pairs_out():
    found = pair_accuracy(scored(("x", (1, 1), 2, 1), ("x", (1, 0), 0, 1), ("y", (-1,), 1, 1), ("y", (1, -1), 5, 0)))
    assert found is not None
    assert (found.mean, found.num_samples) == (0.5, 3)


def test_without_a_majority_there_is_no_accuracy():
    assert pair_accuracy(scored(("x", (1, -1), 2, 1), ("y", (0,), 2, 1))) is None


def test_clips_whose_pairs_stand_or_fall_together_make_the_interval_wider():
    rows = [(f"{clip}", (1,), float(clip % 2), 0.5) for clip in range(40) for _ in range(10)]
    together, apart = scored(*rows), scored(*((f"{number}", *row[1:]) for number, row in enumerate(rows)))
    wide, narrow = pair_accuracy(together), pair_accuracy(apart)
    assert wide is not None
    assert narrow is not None
    assert wide.mean == narrow.mean == 0.5
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_predictions_that_come_true_have_no_calibration_error():
    three_of_four = float(np.log(3))
    rows = [(f"{number}", (1, 1, 1, -1), three_of_four, 0.0) for number in range(5)]
    found = calibrate(scored(*rows, ("y", (0, 0), 1.0, 1.0)))
    assert found.expected_error == pytest.approx(0, abs=1e-6)
    assert [(each.low, each.num_votes) for each in found.bins] == [(0.2, 20), (0.5, 4), (0.7, 20)]
    assert [each.observed for each in found.bins] == [0.25, 0.5, 0.75]


def test_a_sure_model_that_is_wrong_is_as_far_off_as_can_be():
    assert calibrate(scored(("x", (-1, -1), 50.0, -50.0))).expected_error == pytest.approx(1)


votes = st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=4).map(tuple)
# Scores whose predictions lie inside of bins: on an edge, rounding decides.
score = st.sampled_from([-3.0, -1.13, 0.41, 1.9])


@given(st.lists(st.tuples(st.sampled_from("xyz"), votes, score, st.just(0.07)), min_size=1, max_size=12))
def test_no_figure_depends_on_which_caption_is_called_a(rows):
    there, back = (describe_scored_pairs(pairs) for pairs in (scored(*rows), swapped(scored(*rows))))
    assert there.overall == back.overall
    assert there.calibration.expected_error == pytest.approx(back.calibration.expected_error)
    for one, other in zip(there.calibration.bins, back.calibration.bins, strict=True):
        assert (one.predicted, one.observed) == pytest.approx((other.predicted, other.observed))


def test_categories_are_measured_apart_beside_the_agreement_of_their_annotators():
    rows = [("x", (1, 1, 1), 2, 1), ("x", (1, 1, -1), 0, 1), ("y", (1, 1, 1), 2, 1)]
    found = describe_scored_pairs(scored(*rows, categories=["m", "m", ""]))
    (machine,) = found.categories
    assert (machine.category, machine.num_pairs, machine.num_clips) == ("m", 2, 1)
    assert machine.accuracy is not None
    assert machine.accuracy.mean == 0.5
    assert machine.agreement == 0.75  # the two for A of the divided pair have level others
    assert found.overall.num_pairs == 3


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="no pairs"):
        describe_scored_pairs(scored())


def test_scored_pairs_are_read_as_they_were_written(tmp_path: Path):
    pairs = scored(("x", (1, 1), 0.1, -3.3), ("y", (-1, 0), 1e-9, 2), categories=["m", ""])
    pairs.save(tmp_path / "pairs.parquet")
    loaded = ScoredPairs.load(tmp_path / "pairs.parquet")
    assert loaded.pairs == pairs.pairs
    np.testing.assert_array_equal([loaded.scores_a, loaded.scores_b], [pairs.scores_a, pairs.scores_b])
    with pytest.raises(DataError, match="cannot be read"):
        ScoredPairs.load(tmp_path / "gone.parquet")
