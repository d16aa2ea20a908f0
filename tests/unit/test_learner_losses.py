"""Losses and their gradients against slow oracles of plain Python floats, on ragged batches with poisoned padding."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.losses import importance_weights, kl_loss, mismatch_kl, policy_loss, value_loss
from rlcap.config.algorithm import KLEstimator

POISONS = [math.nan, math.inf, -math.inf, 1e30]


@st.composite
def cases(draw, num_inputs):
    """A ragged mask with holes and that many float64 inputs with poison outside it."""
    num_rows, num_tokens = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    mask = torch.zeros(num_rows, num_tokens, dtype=torch.bool)
    for row in range(num_rows):
        mask[row, list(draw(st.sets(st.integers(0, num_tokens - 1), min_size=1)))] = True
    rng, poison = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sampled_from(POISONS))
    inputs = [
        torch.where(mask, torch.tensor(rng.normal(scale=0.5, size=mask.shape)), poison) for _ in range(num_inputs)
    ]
    return mask, inputs


def valid_rows(mask, inputs):
    """For each valid token, its inputs as plain floats."""
    return list(zip(*(one[mask].tolist() for one in inputs), strict=True))


def slow_gradient(loss, tokens, position, step=1e-6):
    """Central differences of `loss(tokens)` with respect to the first input of each token."""

    def moved(index, change):
        return loss([(row[0] + change, *row[1:]) if one == index else row for one, row in enumerate(tokens)])

    return (moved(position, step) - moved(position, -step)) / (2 * step)


def assert_matches(loss_of, slow_loss, mask, inputs):
    """Compare value and gradient; the gradient in the padding must be zero."""
    first = inputs[0].clone().requires_grad_()
    loss = loss_of(first, *inputs[1:])
    loss.backward()
    tokens = valid_rows(mask, inputs)
    assert loss.item() == pytest.approx(slow_loss(tokens), abs=1e-10)
    assert first.grad is not None
    assert (first.grad[~mask] == 0).all()
    expected = [slow_gradient(slow_loss, tokens, position) for position in range(len(tokens))]
    assert first.grad[mask].tolist() == pytest.approx(expected, abs=1e-6)


@given(cases(4), st.sampled_from([None, 7.0]), st.sampled_from([0.0, 1.1, 3.0]))
def test_policy_loss_and_its_gradient_match_the_slow_oracle(case, num_tokens, dual_clip):
    mask, inputs = case

    def slow(tokens):
        total = 0.0
        for new, proximal, advantage, weight in tokens:
            ratio = math.exp(new - proximal)
            surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            total += (max(surrogate, dual_clip * advantage) if dual_clip and advantage < 0 else surrogate) * weight
        return -total / (num_tokens or len(tokens))

    inputs[3] = inputs[3].exp()  # weights are positive
    assert_matches(
        lambda *given_inputs: (
            policy_loss(*given_inputs, mask, clip_range=0.2, dual_clip=dual_clip, divisor=num_tokens).loss
        ),
        slow,
        mask,
        inputs,
    )


@pytest.mark.parametrize(("advantage", "pull"), [(-1.0, 0.0), (1.0, 0.0)])
def test_dual_clip_cuts_the_pull_of_a_token_that_has_become_far_too_likely(advantage, pull):
    new = torch.tensor([[math.log(5.0)]], requires_grad=True)
    old, advantages, mask = torch.zeros(1, 1), torch.tensor([[advantage]]), torch.tensor([[True]])
    result = policy_loss(new, old, advantages, torch.ones(1, 1), mask, clip_range=0.2, dual_clip=3.0)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(3.0 if advantage < 0 else -1.2)
    assert float(new.grad) == pull
    unbound = policy_loss(new.detach(), old, advantages, torch.ones(1, 1), mask, clip_range=0.2).loss
    assert float(unbound) == pytest.approx(5.0 if advantage < 0 else -1.2)


@given(cases(2))
def test_policy_metrics_match_the_slow_oracle(case):
    mask, (new, proximal) = case
    result = policy_loss(new, proximal, torch.ones_like(new), torch.ones_like(new), mask, clip_range=0.2)
    ratios = [math.exp(a - b) for a, b in valid_rows(mask, [new, proximal])]
    clipped = [not 0.8 <= ratio <= 1.2 for ratio in ratios]
    assert float(result.clip_fraction) == pytest.approx(sum(clipped) / len(clipped))
    assert float(result.approx_kl) == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / len(ratios), abs=1e-10)


@given(cases(3), st.sampled_from([0.0, 0.2]))
def test_value_loss_and_its_gradient_match_the_slow_oracle(case, clip_range):
    mask, inputs = case

    def slow(tokens):
        total = 0.0
        for value, old, target in tokens:
            near = old + min(max(value - old, -clip_range), clip_range) if clip_range else value
            total += max((value - target) ** 2, (near - target) ** 2)
        return 0.5 * total / len(tokens)

    assert_matches(lambda *inputs: value_loss(*inputs, mask, clip_range=clip_range).loss, slow, mask, inputs)


def test_a_clipped_value_that_looks_better_does_not_hide_its_error():
    value, old, target = (torch.tensor([[one]]) for one in (5.0, 0.0, 0.1))
    result = value_loss(value, old, target, torch.tensor([[True]]), clip_range=0.2)
    assert float(result.loss) == pytest.approx(0.5 * 4.9**2)
    assert float(result.clip_fraction) == 1.0


@given(cases(3), st.sampled_from(KLEstimator))
def test_kl_loss_and_its_gradient_match_the_slow_oracle(case, estimator):
    mask, inputs = case
    tokens_now = valid_rows(mask, inputs)

    def slow(tokens):
        total = 0.0
        for (new, behaviour, ref), (fixed, _, _) in zip(tokens, tokens_now, strict=True):
            if estimator is KLEstimator.k2:
                total += min(math.exp(fixed - behaviour), 2.0) * 0.5 * (new - ref) ** 2
            else:
                total += min(math.exp(new - behaviour), 2.0) * (math.exp(ref - new) - 1 + new - ref)
        return total / len(tokens)

    assert_matches(
        lambda *given_inputs: kl_loss(*given_inputs, mask, estimator=estimator, max_weight=2.0), slow, mask, inputs
    )


@pytest.mark.parametrize("estimator", KLEstimator)
@pytest.mark.parametrize("on_policy", [True, False])
def test_the_expected_gradient_of_each_kl_estimator_is_that_of_the_exact_kl(estimator, on_policy):
    """Every token of a small vocabulary is taken once and weighted by how likely the sampler draws it."""
    generator = torch.Generator().manual_seed(1)
    logits, other, reference = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(3))
    logits.requires_grad_()
    policy, ref = logits.log_softmax(0), reference.log_softmax(0)
    behaviour = policy.detach() if on_policy else other.log_softmax(0)

    (exact,) = torch.autograd.grad((policy.exp() * (policy - ref)).sum(), logits, retain_graph=True)

    mask = torch.ones(1, 1, dtype=torch.bool)
    expected_loss = sum(
        behaviour[token].exp()
        * kl_loss(
            policy[token].reshape(1, 1),
            behaviour[token].reshape(1, 1),
            ref[token].reshape(1, 1),
            mask,
            estimator=estimator,
            max_weight=math.inf,
        )
        for token in range(6)
    )
    (estimated,) = torch.autograd.grad(expected_loss, logits)
    assert estimated.tolist() == pytest.approx(exact.tolist(), abs=1e-12)


@given(cases(2))
def test_importance_weights_are_truncated_ratios_without_gradient_and_one_in_the_padding(case):
    mask, (proximal, behaviour) = case
    proximal.requires_grad_()
    weights = importance_weights(proximal, behaviour, mask, max_weight=1.5)
    expected = [min(math.exp(a - b), 1.5) for a, b in valid_rows(mask, [proximal, behaviour])]
    assert weights[mask].tolist() == pytest.approx(expected)
    assert (weights[~mask] == 1).all()
    assert not weights.requires_grad


@given(cases(2))
def test_mismatch_is_zero_for_equal_log_probs_and_positive_otherwise(case):
    mask, (new, behaviour) = case
    assert float(mismatch_kl(new, new, mask)) == 0.0
    differences = [a - b for a, b in valid_rows(mask, [new, behaviour])]
    expected = sum(math.exp(one) - 1 - one for one in differences) / len(differences)
    assert float(mismatch_kl(new, behaviour, mask)) == pytest.approx(expected, abs=1e-10)


@given(cases(4), st.integers(0, 3))
def test_losses_of_parts_over_the_global_count_add_up_to_the_loss_of_the_whole(case, cut):
    mask, inputs = case
    whole = policy_loss(*inputs, mask, clip_range=0.2).loss
    parts = [
        policy_loss(*(one[rows] for one in inputs), mask[rows], clip_range=0.2, divisor=float(mask.sum())).loss
        for rows in (slice(cut), slice(cut, None))
    ]
    assert float(sum(parts)) == pytest.approx(float(whole))


def test_importance_weights_make_the_gradient_over_stale_captions_that_over_fresh_ones():
    """Of one-token captions, the expectation over what the old policy samples can be summed in full."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    old = (logits.detach() + torch.randn(5, generator=generator, dtype=torch.float64)).log_softmax(-1)
    advantages = torch.randn(5, generator=generator, dtype=torch.float64)[:, None]
    mask = torch.ones(5, 1, dtype=torch.bool)
    fresh = logits.detach().log_softmax(-1)

    def gradient(sampled_from, weights):
        surrogate = [
            policy_loss(
                logits.log_softmax(-1)[token].view(1, 1),
                fresh[token].view(1, 1),
                advantages[token].view(1, 1),
                weights[token].view(1, 1),
                mask[:1],
                clip_range=0.2,
            ).loss
            for token in range(5)
        ]
        expected = sum(p * one for p, one in zip(sampled_from.exp(), surrogate, strict=True))
        return torch.autograd.grad(expected, logits, retain_graph=True)[0]

    ones = torch.ones(5, 1, dtype=torch.float64)
    exact = importance_weights(fresh[:, None], old[:, None], mask, max_weight=1e9)
    truncated = importance_weights(fresh[:, None], old[:, None], mask, max_weight=1.5)
    on_policy, uncorrected = gradient(fresh, ones), gradient(old, ones)
    torch.testing.assert_close(gradient(old, exact), on_policy, rtol=0, atol=1e-12)
    error, bias = (gradient(old, truncated) - on_policy).norm(), (uncorrected - on_policy).norm()
    assert error < bias
