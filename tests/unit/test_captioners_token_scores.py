import math

import pytest
import torch

from rlcap.captioners import token_scores
from rlcap.captioners.token_scores import score_in_pieces

NUM_ROWS, WIDTH, VOCABULARY = 11, 6, 17
FORBIDDEN_FIRST = 3


@pytest.fixture(params=[2, 4, 64])
def rows_at_once(request, monkeypatch):
    monkeypatch.setattr(token_scores, "MIN_ROWS", request.param)
    monkeypatch.setattr(token_scores, "SCORES_ON_CPU", 0)
    return request.param


def given(seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(NUM_ROWS, WIDTH, generator=generator)
    weight = 3 * torch.randn(VOCABULARY, WIDTH, generator=generator)
    tokens = torch.randint(4, VOCABULARY, (NUM_ROWS,), generator=generator)
    is_first = torch.arange(NUM_ROWS) % 3 == 0
    return hidden, weight, tokens, is_first


def head(weight):
    def logits_of(hidden, is_first):
        logits = torch.tanh(hidden @ weight.t() / 8) * 8
        forbidden = is_first[:, None] & (torch.arange(VOCABULARY) == FORBIDDEN_FIRST)
        return torch.where(forbidden, -1e9, logits)

    return logits_of


def scored(hidden, weight, tokens, is_first, temperature=1.0, sizes=None, *, keep_logits=False, logits_of=None):
    return score_in_pieces(
        logits_of or head(weight),
        hidden,
        is_first,
        tokens,
        temperature,
        sizes,
        vocabulary_size=VOCABULARY,
        keep_logits=keep_logits,
    )


def slowly(hidden, weight, tokens, is_first, temperature):
    """One row after another, in float64, over those tokens that may be written."""
    log_probs, entropies = [], []
    for row in range(NUM_ROWS):
        logits = torch.tanh(weight @ hidden[row] / 8) * 8 / temperature
        allowed = [token for token in range(VOCABULARY) if not (is_first[row] and token == FORBIDDEN_FIRST)]
        total = sum(logits[token].exp() for token in allowed).log()
        log_probs.append(logits[tokens[row]] - total)
        entropies.append(-sum((logits[token] - total).exp() * (logits[token] - total) for token in allowed))
    return torch.stack(log_probs), torch.stack(entropies)


@pytest.mark.parametrize("keep_logits", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, -0.5)])
def test_scores_and_gradients_are_those_of_a_slow_float64_version(rows_at_once, temperature, weights, keep_logits):
    hidden, weight, tokens, is_first = given()
    of_tokens = torch.linspace(-1, 2, NUM_ROWS)
    expected, exact = [], [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    expected = slowly(*exact, tokens, is_first, temperature)
    sum(share * (of_tokens * part).sum() for share, part in zip(weights, expected, strict=True)).backward()
    hidden.requires_grad_()
    weight.requires_grad_()
    found = scored(hidden, weight, tokens, is_first, temperature, keep_logits=keep_logits)
    parts = (found.log_probs, found.entropy)
    sum(share * (of_tokens * part).sum() for share, part in zip(weights, parts, strict=True) if share).backward()
    for mine, theirs in zip((*parts, hidden.grad, weight.grad), (*expected, *(one.grad for one in exact)), strict=True):
        torch.testing.assert_close(mine.detach().double(), theirs.detach(), rtol=1e-5, atol=1e-5)


def test_truncated_scores_are_the_same_in_pieces(rows_at_once):
    hidden, weight, tokens, is_first = given()
    sizes = torch.arange(NUM_ROWS) % 5 + 1
    pieces = scored(hidden, weight, tokens, is_first, 0.8, sizes)
    alone = [
        scored(*(part[row : row + 1] if part is not weight else part for part in given_), 0.8, sizes[row : row + 1])
        for given_ in [(hidden, weight, tokens, is_first)]
        for row in range(NUM_ROWS)
    ]
    torch.testing.assert_close(pieces.log_probs, torch.cat([one.log_probs for one in alone]))
    torch.testing.assert_close(pieces.entropy, torch.cat([one.entropy for one in alone]))


def test_next_to_nothing_is_kept_for_the_backward_pass(rows_at_once):
    hidden, weight, tokens, is_first = given()
    weight.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda it: it):
        scored(hidden, weight, tokens, is_first, logits_of=lambda states, _: states @ weight.t())
    assert kept
    assert not any(shape[-1:] == (VOCABULARY,) for shape in kept)


def test_logits_are_computed_again_in_the_precision_of_the_forward_pass():
    hidden, weight, tokens, is_first = given()
    weight.requires_grad_()
    seen = []

    def logits_of(states, _):
        logits = states @ weight.t()
        seen.append(logits.dtype)
        return logits

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = scored(hidden, weight, tokens, is_first, logits_of=logits_of)
    found.log_probs.sum().backward()
    assert seen == [torch.bfloat16, torch.bfloat16]


def test_tokens_of_tiny_and_of_all_probability_have_finite_scores():
    logits = torch.tensor([[0.0, -200.0, 200.0], [0.0, -200.0, 200.0]], requires_grad=True)
    found = scored(logits, None, torch.tensor([1, 2]), torch.zeros(2, dtype=torch.bool), logits_of=lambda it, _: it)
    (found.log_probs + found.entropy).sum().backward()
    assert found.log_probs.tolist() == [-400.0, 0.0]
    assert found.entropy.tolist() == [0.0, 0.0]
    assert math.isfinite(logits.grad.abs().sum())


def test_no_row_has_no_score():
    hidden, weight, tokens, is_first = given()
    for sizes in (None, tokens[:0]):
        found = scored(hidden[:0], weight, tokens[:0], is_first[:0], sizes=sizes)
        assert found.log_probs.shape == found.entropy.shape == (0,)
