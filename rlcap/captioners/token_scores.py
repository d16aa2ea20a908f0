"""Scoring tokens against a whole vocabulary, some rows at a time, with next to nothing kept for the backward pass.

The scores of a vocabulary are the largest thing that a small model computes. Those of a few rows stay in a CPU's cache,
where those of a whole update would go through its memory again and again. For the backward pass they are computed anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlcap.captioners.distribution import ScoredTokens, at, cooled, score_truncated

MIN_ROWS = 128
"""With fewer rows a piece, reading the vocabulary's weights would take longer than multiplying by them."""
SCORES_ON_CPU, SCORES_ON_GPU = 2**20, 2**28
"""Scores of a piece, where these are more rows than `MIN_ROWS`."""

Logits = Callable[[Float[Tensor, "row dim"], Bool[Tensor, " row"]], Float[Tensor, "row vocab"]]
"""Hidden states, and which of them predict a first token, to logits."""


def score_in_pieces(
    logits_of: Logits,
    hidden: Float[Tensor, "row dim"],
    is_first: Bool[Tensor, " row"],
    tokens: Int[Tensor, " row"],
    temperature: float,
    support_sizes: Int[Tensor, " row"] | None,
    *,
    vocabulary_size: int,
    keep_logits: bool,
) -> ScoredTokens:
    """Score tokens under the distributions they were drawn from, with gradients.

    Args:
        logits_of: computes the same when it is called again, unless `keep_logits`.
        hidden: what predicts each token.
        is_first: whether the token begins a caption.
        tokens: the ones drawn.
        temperature: divides the logits.
        support_sizes: from how many of the most probable tokens each was drawn; None where it was from all.
        vocabulary_size: about how many logits a row has.
        keep_logits: hold them for the backward pass.
    """
    rows_at_once = max(MIN_ROWS, (SCORES_ON_CPU if hidden.device.type == "cpu" else SCORES_ON_GPU) // vocabulary_size)
    num_pieces = max(1, -(-len(tokens) // rows_at_once))
    size = max(1, -(-len(tokens) // num_pieces))  # all alike, but for the last one
    found = []
    for states, first, drawn, sizes in zip(
        hidden.split(size),
        is_first.split(size),
        tokens.split(size),
        [None] * num_pieces if support_sizes is None else support_sizes.split(size),
        strict=True,
    ):
        logits = logits_of(states, first)
        if sizes is not None and len(sizes):
            found.append(score_truncated(logits, drawn, temperature, sizes))
        else:
            again = _kept(logits) if keep_logits else _computed_again(logits_of, states, first)
            found.append(ScoredTokens(*_Scores.apply(logits, drawn, temperature, again)))  # type: ignore[no-untyped-call]
    return ScoredTokens(torch.cat([one.log_probs for one in found]), torch.cat([one.entropy for one in found]))


def _kept(logits: Float[Tensor, "row vocab"]) -> Callable[[], Float[Tensor, "row vocab"]]:
    kept = logits.detach()
    return lambda: kept


def _computed_again(
    logits_of: Logits, hidden: Float[Tensor, "row dim"], is_first: Bool[Tensor, " row"]
) -> Callable[[], Float[Tensor, "row vocab"]]:
    kind, hidden = hidden.device.type, hidden.detach()
    # The backward pass runs outside of the forward pass's precision.
    precision = torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))

    def again() -> Float[Tensor, "row vocab"]:
        with precision:
            return logits_of(hidden, is_first)

    return again


class _Scores(torch.autograd.Function):
    """Logits to the log-prob of each row's token and the row's entropy; the logits themselves are not kept."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch gives it no type
        logits: Float[Tensor, "row vocab"],
        tokens: Int[Tensor, " row"],
        temperature: float,
        again: Callable[[], Float[Tensor, "row vocab"]],
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
        logits = cooled(logits, temperature)
        probabilities = torch.softmax(logits, dim=-1)
        # The largest probability is one over the sum of the exponentials, which need not be computed a second time.
        largest, log_sum = logits.amax(dim=-1), -probabilities.amax(dim=-1).log()
        log_probs = at(logits, tokens) - largest - log_sum
        mean = torch.linalg.vecdot(probabilities, logits)
        ctx.save_for_backward(tokens, mean)
        ctx.temperature, ctx.again = temperature, again
        ctx.set_materialize_grads(False)
        return log_probs, largest - mean + log_sum

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        of_log_probs: Float[Tensor, " row"] | None,
        of_entropy: Float[Tensor, " row"] | None,
    ) -> tuple[Float[Tensor, "row vocab"], None, None, None]:
        """Of log-probs: `[chosen] - p`. Of the entropy: `-p (logit - mean)`. Rows of their sum add up to 0."""
        tokens, mean = ctx.saved_tensors
        logits = cooled(ctx.again(), ctx.temperature)
        gradient = torch.softmax(logits, dim=-1)
        weights = torch.zeros_like(mean) if of_log_probs is None else of_log_probs
        if of_entropy is None:
            gradient.mul_(-weights[:, None])
        else:
            gradient.mul_((mean[:, None] - logits).mul_(of_entropy[:, None]).sub_(weights[:, None]))
        gradient.scatter_add_(-1, tokens[:, None], weights[:, None])
        return gradient if ctx.temperature == 1.0 else gradient.div_(ctx.temperature), None, None, None
