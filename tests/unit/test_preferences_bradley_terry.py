import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from rlcap.preferences.bradley_terry import bradley_terry_loss

SCORES = st.floats(-30, 30)
PAIRS = st.lists(st.tuples(SCORES, SCORES, st.floats(0, 1), st.integers(1, 9)), min_size=1, max_size=20)


def oracle(pairs):
    total = 0.0
    for score_a, score_b, share, votes in pairs:
        p = 1 / (1 + math.exp(score_b - score_a))
        q = 1 / (1 + math.exp(score_a - score_b))
        total -= votes * (share * math.log(p) + (1 - share) * math.log(q))
    return total / sum(votes for *_, votes in pairs)


def loss(pairs):
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True)]
    return bradley_terry_loss(*columns).item()


@given(PAIRS)
def test_the_loss_is_that_of_a_slow_oracle(pairs):
    # torch's softplus is linear beyond 20, which leaves out up to log(1 + exp(-20)).
    assert math.isclose(loss(pairs), oracle(pairs), rel_tol=1e-9, abs_tol=3e-9)


@given(PAIRS)
def test_exchanging_the_captions_and_their_votes_changes_nothing(pairs):
    swapped = [(b, a, 1 - share, votes) for a, b, share, votes in pairs]
    assert math.isclose(loss(swapped), loss(pairs), rel_tol=1e-6, abs_tol=1e-6)


def test_votes_on_a_pair_count_like_single_votes_on_copies_of_it():
    together = [(0.3, 1.1, 0.75, 4)]
    apart = [(0.3, 1.1, 1.0, 1)] * 3 + [(0.3, 1.1, 0.0, 1)]
    assert math.isclose(loss(together), loss(apart))


def test_scores_far_apart_give_a_finite_loss_and_gradient():
    scores_a = torch.tensor([1e4, -1e4], requires_grad=True)
    bradley_terry_loss(scores_a, torch.zeros(2), torch.tensor([0.0, 1.0]), torch.ones(2)).backward()
    assert scores_a.grad.tolist() == [0.5, -0.5]


def test_a_tie_pulls_scores_together():
    scores_a = torch.tensor([2.0], requires_grad=True)
    bradley_terry_loss(scores_a, torch.zeros(1), torch.tensor([0.5]), torch.ones(1)).backward()
    assert scores_a.grad.item() > 0
