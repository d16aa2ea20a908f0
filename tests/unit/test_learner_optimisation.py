"""Step sizes over a run, and who takes steps."""

import math

import pytest
import torch
from small_captioner import SmallCaptioner, experience_of, make_update, sample

from learner.optimisation import build_optimizer, clip_gradients, set_learning_rates
from rlcap.config.algorithm import AlgorithmKind, LearningRateSchedule, PPOConfig


def rates_over(num_updates, **settings):
    """Both step sizes of each update, in shares of the full ones."""
    config = PPOConfig(learning_rate=2.0, value_learning_rate=4.0, **settings)
    optimizer, rates = build_optimizer(SmallCaptioner(), config), []
    for num_done in range(num_updates):
        set_learning_rates(optimizer, config, num_done, num_updates)
        policy, value_head = optimizer.param_groups
        rates.append((policy["lr"] / 2, value_head["lr"] / 4))
    assert [group["lr"] for group in optimizer.param_groups] == [2 * rates[-1][0], 4 * rates[-1][1]]
    return rates


def test_a_linear_schedule_falls_in_equal_steps_after_its_warm_up():
    rates = rates_over(6, learning_rate_schedule=LearningRateSchedule.linear, warmup_updates=2)
    assert rates == [(share, share) for share in (0.5, 1.0, 1.0, 0.75, 0.5, 0.25)]


def test_a_cosine_schedule_falls_as_half_a_cosine():
    rates = rates_over(4, learning_rate_schedule=LearningRateSchedule.cosine)
    expected = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert [policy for policy, _ in rates] == pytest.approx(expected)


def test_the_count_of_the_policy_begins_once_the_critic_has_warmed_up():
    rates = rates_over(6, learning_rate_schedule=LearningRateSchedule.linear, warmup_updates=2, critic_warmup_updates=2)
    assert rates == [(0.0, 0.5), (0.0, 1.0), (0.5, 1.0), (1.0, 0.75), (1.0, 0.5), (0.5, 0.25)]


def test_a_run_that_goes_on_beyond_its_schedule_keeps_still_instead_of_climbing():
    config = PPOConfig(learning_rate_schedule=LearningRateSchedule.linear)
    optimizer = build_optimizer(SmallCaptioner(), config)
    set_learning_rates(optimizer, config, 7, 5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]


def test_a_schedule_needs_the_number_of_updates():
    with pytest.raises(ValueError, match="a cosine schedule needs num_updates"):
        make_update(learning_rate_schedule=LearningRateSchedule.cosine)


def test_only_the_value_head_learns_while_the_critic_warms_up():
    update = make_update(critic_warmup_updates=2)
    fresh = {name: value.clone() for name, value in update.captioner.named_parameters()}
    for version in range(2):
        update.update([sample(update.captioner, version, version=version)])
        changed = {name for name, value in update.captioner.named_parameters() if not torch.equal(value, fresh[name])}
        assert changed == {"value_head.weight", "value_head.bias"}
    assert not any(update.optimizer.state[parameter] for parameter in update.optimizer.param_groups[0]["params"])
    update.update([sample(update.captioner, 2, version=2)])
    assert all(not torch.equal(value, fresh[name]) for name, value in update.captioner.named_parameters())


def test_a_critic_that_is_far_off_takes_nothing_from_the_gradient_of_the_policy():
    update = make_update(value_clip_range=0.0)
    scored = sample(update.captioner)
    with torch.no_grad():
        update.captioner.value_head.bias += 10.0
    experience = experience_of([scored], update.captioner)
    update.compute_gradient(experience, torch.arange(4), num_units=float(experience.captions.action_mask.sum()))
    policy = [parameter.grad.clone() for parameter in update.optimizer.param_groups[0]["params"]]
    norms = clip_gradients(update.optimizer, 1.0)
    assert norms.value_head > 5, "the critic is far off"
    for parameter, gradient in zip(update.optimizer.param_groups[0]["params"], policy, strict=True):
        torch.testing.assert_close(parameter.grad, gradient / max(1.0, norms.policy), rtol=1e-4, atol=1e-7)


def test_the_norms_of_both_gradients_are_reported_as_they_were():
    captioner = SmallCaptioner()
    with torch.no_grad():
        captioner.value_head.bias += 10.0
    update = make_update(captioner, max_grad_norm=1e-3, value_clip_range=0.0, num_epochs=1, minibatch_size=99)
    metrics = update.update([sample(captioner)])
    assert metrics["learner/value_grad_norm"] > 5 > metrics["learner/grad_norm"] > 1e-2


@pytest.mark.parametrize("kind", [kind for kind in AlgorithmKind if kind is not AlgorithmKind.ppo])
def test_kinds_without_a_critic_report_no_norm_of_its_gradient(kind):
    metrics = make_update(kind=kind).update([sample(SmallCaptioner())])
    assert metrics["learner/grad_norm"] > 0
    assert "learner/value_grad_norm" not in metrics
