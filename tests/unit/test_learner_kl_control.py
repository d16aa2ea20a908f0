"""The steered weight of the KL penalty, alone and in updates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_captioner import SmallCaptioner, make_update, sample

from learner import saved_state
from learner.kl_control import KLCoefficient
from rlcap.config.algorithm import PPOConfig


def test_the_weight_follows_the_formula_of_ziegler():
    coefficient, expected = KLCoefficient(PPOConfig(kl_coef=0.1, kl_target=6.0, kl_horizon=640.0)), 0.1
    for kl, error in [(12.0, 0.2), (6.6, 0.1), (6.0, 0.0), (5.4, -0.1), (-3.0, -0.2)]:
        coefficient.observe(kl, num_rollouts=64)
        expected *= 1 + 0.1 * error
        assert coefficient.value == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 100_000)), max_size=50))
def test_the_weight_stays_positive_and_a_fixed_one_the_same(seen):
    steered, fixed = KLCoefficient(PPOConfig(kl_target=1.0)), KLCoefficient(PPOConfig(kl_coef=0.3))
    for kl, num_rollouts in seen:
        before = steered.value
        steered.observe(kl, num_rollouts)
        fixed.observe(kl, num_rollouts)
        assert 0.8 * before <= steered.value <= 1.2 * before
    assert steered.value > 0
    assert fixed.value == 0.3


def test_updates_use_the_weight_that_the_rollouts_before_them_led_to():
    update = make_update(kl_target=1e-3, kl_horizon=32.0, kl_coef=0.1)
    reported, expected = [], [0.1]
    for index in range(4):
        metrics = update.update([sample(update.captioner, index, version=index)])
        error = min(max(metrics["rollout/kl_to_reference"] / 1e-3 - 1, -0.2), 0.2)
        reported.append(metrics["learner/kl_coef"])
        expected.append(expected[-1] * (1 + error * 16 / 32))
    assert reported == pytest.approx(expected[:-1])
    assert len(set(reported)) == 4


def test_the_weight_enters_the_advantages():
    scored = sample(SmallCaptioner())
    steered, fixed = make_update(kl_target=1.0, kl_coef=0.1), make_update(kl_coef=0.4)
    steered.load_training_state({**steered.training_state(), "kl_coef": 0.4})
    first, second = steered.update([scored]), fixed.update([scored])
    assert first["learner/policy_loss"] == second["learner/policy_loss"]
    assert first["learner/policy_loss"] != make_update(kl_coef=0.1).update([scored])["learner/policy_loss"]


def test_a_resumed_run_goes_on_with_a_steered_weight_and_takes_a_fixed_one_from_its_settings(tmp_path):
    update = make_update(kl_target=1e-3, kl_horizon=16.0)
    update.update([sample(update.captioner)])
    saved_state.save(update, tmp_path)
    steered, fixed = make_update(kl_target=1e-3, kl_horizon=16.0), make_update(kl_coef=0.7)
    for resumed in (steered, fixed):
        saved_state.load(resumed, tmp_path)
    scored = sample(update.captioner, 1, version=1)
    assert steered.update([scored])["learner/kl_coef"] == update.update([scored])["learner/kl_coef"] != 0.05
    assert fixed.update([scored])["learner/kl_coef"] == 0.7
