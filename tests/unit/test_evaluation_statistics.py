import numpy as np
import pytest

from rlcap.evaluation.statistics import bootstrap_mean, bootstrap_over_groups, describe_captions


def slow_interval(values, num_resamples):
    """Percentile bootstrap by drawing clips with replacement, one resample at a time."""
    rng = np.random.default_rng(99)
    means = [rng.choice(values, len(values)).mean() for _ in range(num_resamples)]
    return np.quantile(means, [0.025, 0.975])


def test_the_interval_agrees_with_resampling_clips():
    values = np.array([1.0] * 120 + [0.5] * 30 + [0.0] * 50)
    found = bootstrap_mean(values, seed=3, num_resamples=8000)
    assert found.mean == pytest.approx(0.675)
    assert found.num_samples == 200
    np.testing.assert_allclose([found.low, found.high], slow_interval(values, 8000), atol=0.006)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = []
    for trial in range(300):
        found = bootstrap_mean((rng.random(150) < 0.6).astype(float), seed=trial, num_resamples=500)
        covered.append(found.low <= 0.6 <= found.high)
    assert 0.9 < np.mean(covered) < 0.99


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_one_value_has_an_interval_of_no_width():
    found = bootstrap_mean([0.5])
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0]]])
def test_values_without_a_mean_are_refused(values):
    with pytest.raises(ValueError, match="values"):
        bootstrap_mean(values)


def test_a_level_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="level"):
        bootstrap_mean([1.0], level=1.0)


def test_captions_are_described_by_length_variety_and_repetition():
    found = describe_captions(["a dog barks", "a dog barks", "a dog a dog a dog", ""])
    assert found.mean_num_words == pytest.approx(12 / 4)
    assert found.distinct_share == pytest.approx(3 / 4)
    assert found.repetition_share == pytest.approx((3 / 5) / 4)


def test_no_captions_are_refused():
    with pytest.raises(ValueError, match="no captions"):
        describe_captions([])


def test_groups_that_stand_or_fall_together_are_the_sample():
    """Ten equal values of a group say no more than one of them."""
    verdicts = np.random.default_rng(0).integers(2, size=50)
    alone = bootstrap_mean(verdicts)
    together = bootstrap_over_groups(verdicts.repeat(10), [str(group) for group in np.arange(50).repeat(10)])
    assert together.mean == alone.mean
    assert together.num_samples == 500
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high), abs=0.03)


def test_groups_of_one_make_the_ordinary_bootstrap():
    values = np.random.default_rng(0).normal(size=60)
    alone, grouped = bootstrap_mean(values), bootstrap_over_groups(values, [str(number) for number in range(60)])
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high), abs=0.05)


def test_one_group_leaves_no_doubt_and_the_same_seed_the_same_interval():
    assert bootstrap_over_groups([0, 1, 1], ["a"] * 3).low == pytest.approx(2 / 3)
    values, groups = [0, 1, 1, 0, 1], list("aabbc")
    assert bootstrap_over_groups(values, groups, seed=3) == bootstrap_over_groups(values, groups, seed=3)


@pytest.mark.parametrize(
    ("values", "groups", "level"),
    [([], [], 0.95), ([np.nan], ["a"], 0.95), ([1.0], ["a", "b"], 0.95), ([1.0], ["a"], 1.0)],
)
def test_values_without_groups_are_refused(values, groups, level):
    with pytest.raises(ValueError, match=r"must"):
        bootstrap_over_groups(values, groups, level=level)
