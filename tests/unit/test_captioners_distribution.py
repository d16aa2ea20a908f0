import pytest
import torch

from rlcap.captioners.distribution import draw

NUM_ROWS = 20_000


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 5, 9, 12, 17])  # blocks that are whole, and a last one that is not
def test_tokens_are_drawn_by_their_share(vocabulary):
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    rows, generator = logits.expand(NUM_ROWS, -1), torch.Generator().manual_seed(0)
    drawn = draw(rows, temperature=1.0, top_k=0, top_p=1.0, generator=generator)
    shares = torch.bincount(drawn.tokens, minlength=vocabulary) / NUM_ROWS
    torch.testing.assert_close(shares, logits.softmax(dim=-1)[0], rtol=0, atol=0.015)
    torch.testing.assert_close(drawn.log_probs, logits.log_softmax(dim=-1)[0][drawn.tokens])


def test_what_has_no_probability_is_never_drawn():
    logits = torch.full((NUM_ROWS, 10), -1e9)
    logits[:, 4] = 0.0  # the middle of a block of four, before one of two
    drawn = draw(logits, temperature=1.0, top_k=0, top_p=1.0, generator=torch.Generator().manual_seed(0))
    assert drawn.tokens.unique().tolist() == [4]
