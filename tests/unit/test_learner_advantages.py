"""Rewards and advantages against slow oracles of plain Python floats, on ragged batches with poisoned padding."""

import math
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.advantages import (
    generalised_advantages,
    grpo_advantages,
    is_last_valid,
    kl_shaped_rewards,
    rloo_advantages,
)

POISONS = [math.nan, math.inf, -math.inf, 1e30]


@st.composite
def masks(draw, *, holes=True):
    """Masks with at least one valid token a row."""
    num_rows, num_tokens = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    if not holes:
        lengths = draw(st.lists(st.integers(1, num_tokens), min_size=num_rows, max_size=num_rows))
        return torch.arange(num_tokens) < torch.tensor(lengths)[:, None]
    mask = torch.zeros(num_rows, num_tokens, dtype=torch.bool)
    for row in range(num_rows):
        mask[row, list(draw(st.sets(st.integers(0, num_tokens - 1), min_size=1)))] = True
    return mask


def poisoned(mask, seed, poison):
    """Normal float64 values where the mask is True, poison elsewhere."""
    values = torch.tensor(np.random.default_rng(seed).normal(size=mask.shape))
    return torch.where(mask, values, poison)


def slow_rewards(scores, log_probs, ref_log_probs, mask, kl_coef):
    rewards = []
    for score, new, ref, valid in zip(scores, log_probs, ref_log_probs, mask, strict=True):
        row = [-kl_coef * (a - b) if ok else 0.0 for a, b, ok in zip(new, ref, valid, strict=True)]
        row[max(index for index, ok in enumerate(valid) if ok)] += score
        rewards.append(row)
    return rewards


def slow_gae(rewards, values, mask, gamma, gae_lambda):
    """Advantages by the definition: a discounted sum of temporal differences over the valid tokens alone."""
    advantages = []
    for row_rewards, row_values, valid in zip(rewards, values, mask, strict=True):
        steps = [index for index, ok in enumerate(valid) if ok]
        deltas = []
        for position, index in enumerate(steps):
            following = row_values[steps[position + 1]] if position + 1 < len(steps) else 0.0
            deltas.append(row_rewards[index] + gamma * following - row_values[index])
        row = [0.0] * len(valid)
        for position, index in enumerate(steps):
            later = deltas[position:]
            row[index] = math.fsum((gamma * gae_lambda) ** ahead * delta for ahead, delta in enumerate(later))
        advantages.append(row)
    return advantages


def approx_rows(rows):
    return [pytest.approx(row, abs=1e-10) for row in rows]


@given(masks(), st.integers(0, 2**32 - 1), st.sampled_from(POISONS), st.floats(0, 2))
def test_token_rewards_match_the_slow_oracle(mask, seed, poison, kl_coef):
    log_probs, ref_log_probs = poisoned(mask, seed, poison), poisoned(mask, seed + 1, poison)
    scores = torch.tensor(np.random.default_rng(seed + 2).normal(size=len(mask)))
    rewards = kl_shaped_rewards(scores, log_probs, ref_log_probs, mask, kl_coef=kl_coef)
    expected = slow_rewards(scores.tolist(), log_probs.tolist(), ref_log_probs.tolist(), mask.tolist(), kl_coef)
    assert rewards.tolist() == approx_rows(expected)


@given(
    masks(),
    st.integers(0, 2**32 - 1),
    st.sampled_from(POISONS),
    st.sampled_from([1.0, 0.9]),
    st.sampled_from([0, 0.95, 1]),
)
def test_advantages_and_returns_match_the_slow_oracle_also_across_holes(mask, seed, poison, gamma, gae_lambda):
    rewards, values = poisoned(mask, seed, poison), poisoned(mask, seed + 1, poison)
    learned = generalised_advantages(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda)
    expected = slow_gae(rewards.tolist(), values.tolist(), mask.tolist(), gamma, gae_lambda)
    assert learned.advantages.tolist() == approx_rows(expected)
    assert learned.returns[mask].tolist() == pytest.approx((learned.advantages + values)[mask].tolist())
    assert (learned.returns[~mask] == 0).all()


@given(masks(holes=False), st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_more_padding_changes_no_advantage(mask, seed, extra):
    def run(padding):
        wide = torch.nn.functional.pad(mask, (0, padding))
        rewards, values = (
            torch.nn.functional.pad(poisoned(mask, seed + one, 0.0), (0, padding), value=math.nan) for one in (0, 1)
        )
        return generalised_advantages(rewards, values, wide, gamma=1.0, gae_lambda=0.95).advantages

    assert torch.equal(run(extra)[:, : mask.shape[1]], run(0))


def test_with_lambda_one_and_no_discount_the_return_is_the_sum_of_what_follows():
    mask = torch.tensor([[True, True, True, False]])
    rewards, values = torch.tensor([[1.0, 2.0, 4.0, math.nan]]), torch.tensor([[5.0, -3.0, 0.5, math.nan]])
    returns = generalised_advantages(rewards, values, mask, gamma=1.0, gae_lambda=1.0).returns
    assert returns.tolist() == [[7.0, 6.0, 4.0, 0.0]]


def test_the_last_valid_token_is_found_before_padding_and_behind_holes():
    mask = torch.tensor([[True, True, False], [True, False, True], [False, False, False]])
    assert is_last_valid(mask).tolist() == [[False, True, False], [False, False, True], [False, False, False]]


def test_a_failed_score_that_is_not_finite_stays_in_its_row():
    mask = torch.ones(2, 2, dtype=torch.bool)
    zeros = torch.zeros(2, 2)
    rewards = kl_shaped_rewards(torch.tensor([math.nan, 1.0]), zeros, zeros, mask, kl_coef=0.1)
    assert rewards[1].tolist() == [0.0, 1.0]


groups = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@given(groups, st.integers(0, 2**32 - 1))
def test_rloo_takes_off_the_mean_of_the_others(clip_index, seed):
    rewards = np.random.default_rng(seed).normal(size=len(clip_index)).tolist()
    expected = []
    for row, (clip, reward) in enumerate(zip(clip_index, rewards, strict=True)):
        others = [rewards[one] for one, other in enumerate(clip_index) if other == clip and one != row]
        expected.append(reward - fmean(others) if others else 0.0)
    advantages = rloo_advantages(torch.tensor(rewards, dtype=torch.float64), torch.tensor(clip_index))
    assert advantages.tolist() == pytest.approx(expected, abs=1e-9)


@given(groups, st.integers(0, 2**32 - 1))
def test_grpo_standardises_within_the_clip(clip_index, seed):
    rewards = np.random.default_rng(seed).normal(size=len(clip_index)).tolist()
    expected = []
    for clip, reward in zip(clip_index, rewards, strict=True):
        group = [one for one, other in zip(rewards, clip_index, strict=True) if other == clip]
        expected.append((reward - fmean(group)) / (stdev(group) + 1e-4) if len(group) > 1 else 0.0)
    advantages = grpo_advantages(torch.tensor(rewards, dtype=torch.float64), torch.tensor(clip_index))
    assert advantages.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("advantages_of", [rloo_advantages, grpo_advantages])
def test_the_order_of_rollouts_does_not_matter(advantages_of):
    rewards = torch.tensor([1.0, 5.0, 2.0, 9.0, 4.0], dtype=torch.float64)
    clip_index = torch.tensor([0, 1, 0, 1, 1])
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = advantages_of(rewards[order], clip_index[order])
    assert shuffled.tolist() == pytest.approx(advantages_of(rewards, clip_index)[order].tolist())


@pytest.mark.parametrize("advantages_of", [rloo_advantages, grpo_advantages])
def test_equal_rewards_teach_nothing_and_stay_finite(advantages_of):
    advantages = advantages_of(torch.full((4,), 0.5), torch.tensor([0, 0, 1, 1]))
    assert advantages.tolist() == [0.0, 0.0, 0.0, 0.0]
