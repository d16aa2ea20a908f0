import math
from statistics import fmean, pvariance

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.masking import keep_valid, masked_mean, masked_sum, masked_var, masked_whiten

POISONS = [math.nan, math.inf, -math.inf, 1e30]


@st.composite
def poisoned_batches(draw):
    """A ragged batch with holes, and something unusable wherever the mask is False."""
    num_rows, num_tokens = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    mask = np.array(draw(st.lists(st.booleans(), min_size=num_rows * num_tokens, max_size=num_rows * num_tokens)))
    mask[draw(st.integers(0, mask.size - 1))] = True
    values = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=mask.size)
    values[~mask] = draw(st.sampled_from(POISONS))
    shape = (num_rows, num_tokens)
    return torch.tensor(values.reshape(shape)), torch.tensor(mask.reshape(shape))


@given(poisoned_batches())
def test_sums_means_and_variances_see_valid_tokens_only(batch):
    values, mask = batch
    valid = values[mask].tolist()
    assert float(masked_sum(values, mask)) == pytest.approx(math.fsum(valid))
    assert float(masked_mean(values, mask)) == pytest.approx(fmean(valid))
    assert float(masked_var(values, mask)) == pytest.approx(pvariance(valid), abs=1e-12)


@given(poisoned_batches())
def test_whitened_values_have_zero_mean_unit_variance_and_zeros_in_the_padding(batch):
    values, mask = batch
    valid = values[mask].tolist()
    whitened = masked_whiten(values, mask)
    expected = [(one - fmean(valid)) / math.sqrt(pvariance(valid) + 1e-8) for one in valid]
    assert whitened[mask].tolist() == pytest.approx(expected, abs=1e-9)
    assert (whitened[~mask] == 0).all()


@given(poisoned_batches(), st.integers(0, 4))
def test_means_of_parts_over_the_global_count_add_up_to_the_mean_of_the_whole(batch, cut):
    values, mask = batch
    num_tokens = float(mask.sum())
    parts = sum(float(masked_mean(values[rows], mask[rows], num_tokens)) for rows in (slice(cut), slice(cut, None)))
    assert parts == pytest.approx(float(masked_mean(values, mask)))


@given(poisoned_batches())
def test_no_gradient_reaches_the_padding_and_none_of_it_is_nan(batch):
    values, mask = batch
    values.requires_grad_()
    (masked_mean(values, mask) + masked_whiten(values, mask).square().sum()).backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert (values.grad[~mask] == 0).all()


def test_a_mask_without_a_token_averages_to_zero():
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert float(masked_mean(torch.full((2, 3), math.nan), nothing)) == 0.0


def test_the_dtype_of_the_values_is_kept():
    mask = torch.tensor([[True, False]])
    assert keep_valid(torch.ones(1, 2, dtype=torch.bfloat16), mask).dtype == torch.bfloat16
