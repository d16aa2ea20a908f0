"""The distribution that a token is drawn from: temperature, then the top k, then the top p.

A truncated distribution keeps the n most probable tokens, and n is all that the learner needs to know to score a
drawn token as the sampler did: which tokens the policy would keep by itself may differ by a rounding error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class DrawnTokens:
    """One token a row."""

    tokens: Int[Tensor, " row"]
    log_probs: Float[Tensor, " row"]
    """Of the distribution drawn from."""
    support_sizes: Int[Tensor, " row"] | None
    """How many of the most probable tokens could have been drawn; None where any could."""


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """Given tokens under the distribution that they were drawn from."""

    log_probs: Float[Tensor, " row"]
    entropy: Float[Tensor, " row"]


def draw(
    logits: Float[Tensor, "row vocab"],
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    generator: torch.Generator | None,
) -> DrawnTokens:
    """Draw a token a row.

    Args:
        logits: before any temperature.
        temperature: divides the logits.
        top_k: keep that many of the most probable tokens; 0 keeps all.
        top_p: of those, keep the fewest that hold this share of the probability; 1 keeps all.
        generator: source of randomness; None picks the most probable token.
    """
    probabilities = torch.softmax(cooled(logits, temperature), dim=-1)
    if top_k == 0 and top_p == 1.0:
        tokens = _pick(probabilities, generator)
        return DrawnTokens(tokens, at(probabilities, tokens).log(), None)
    ordered, order = probabilities.sort(dim=-1, descending=True)
    sizes = _support_sizes(ordered, top_k, top_p)
    kept = _first(ordered, sizes)
    ranks = _pick(kept, generator)
    return DrawnTokens(at(order, ranks), (at(kept, ranks) / kept.sum(dim=-1)).log(), sizes)


def score_truncated(
    logits: Float[Tensor, "row vocab"],
    tokens: Int[Tensor, " row"],
    temperature: float,
    support_sizes: Int[Tensor, " row"],
) -> ScoredTokens:
    """Score drawn tokens, with gradients; the drawn token counts as kept even where the policy now ranks it lower."""
    log_softmax = torch.log_softmax(cooled(logits, temperature), dim=-1)
    chosen = at(log_softmax, tokens)
    ordered = log_softmax.topk(int(support_sizes.max()), dim=-1).values
    kept = torch.arange(ordered.shape[1], device=ordered.device) < support_sizes[:, None]
    mass = _masked_logsumexp(ordered, kept)
    least = at(ordered, support_sizes - 1)
    mass = torch.where(chosen < least, torch.logaddexp(mass, chosen), mass)
    inside = torch.where(kept, ordered - mass[:, None], 0.0)
    return ScoredTokens(chosen - mass, -torch.where(kept, inside.exp() * inside, 0.0).sum(dim=-1))


def cooled(logits: Float[Tensor, "row vocab"], temperature: float) -> Float[Tensor, "row vocab"]:
    """Divide logits by a temperature, in float32."""
    return logits.float() if temperature == 1.0 else logits.float() / temperature


def _support_sizes(ordered: Float[Tensor, "row vocab"], top_k: int, top_p: float) -> Int[Tensor, " row"]:
    """Count the tokens that stay of probabilities in descending order; the first one always does."""
    candidates = ordered[:, :top_k] if top_k else ordered
    if top_p == 1.0:
        return torch.full((len(ordered),), candidates.shape[1], device=ordered.device)
    before = candidates.cumsum(dim=-1) - candidates
    return (before < top_p * candidates.sum(dim=-1, keepdim=True)).sum(dim=-1).clamp(min=1)


def _first(ordered: Float[Tensor, "row vocab"], sizes: Int[Tensor, " row"]) -> Float[Tensor, "row vocab"]:
    kept = torch.arange(ordered.shape[1], device=ordered.device) < sizes[:, None]
    return torch.where(kept, ordered, 0.0)


def _masked_logsumexp(values: Float[Tensor, "row vocab"], kept: Tensor) -> Float[Tensor, " row"]:
    return values.masked_fill(~kept, -torch.inf).logsumexp(dim=-1)


def _pick(probabilities: Float[Tensor, "row vocab"], generator: torch.Generator | None) -> Int[Tensor, " row"]:
    """Pick a token by its share of the row's sum."""
    if generator is None:
        return probabilities.argmax(dim=-1)
    # One uniform number a row, where `torch.multinomial` draws one for every token of the vocabulary; and running sums
    # over blocks, then within one of them, since those over a whole vocabulary are slow.
    vocabulary = probabilities.shape[1]
    block = math.isqrt(vocabulary - 1) + 1
    num_whole = vocabulary // block
    in_whole, behind = probabilities.split([num_whole * block, vocabulary - num_whole * block], dim=-1)
    sums = torch.cat([in_whole.unflatten(1, (num_whole, block)).sum(dim=-1), behind.sum(dim=-1, keepdim=True)], dim=-1)
    level = torch.rand(len(sums), 1, generator=generator, device=sums.device)
    chosen = _invert(sums, level)
    passed = torch.where(torch.arange(num_whole + 1, device=sums.device) < chosen, sums, 0.0).sum(dim=-1, keepdim=True)
    places = chosen * block + torch.arange(block, device=sums.device)
    within = probabilities.gather(1, places.clamp(max=vocabulary - 1)).masked_fill(places >= vocabulary, 0.0)
    rest = (level * sums.sum(dim=-1, keepdim=True) - passed) / within.sum(dim=-1, keepdim=True)
    return (chosen * block + _invert(within, rest.clamp(0, 1))).squeeze(-1)


def _invert(weights: Float[Tensor, "row vocab"], level: Float[Tensor, "row 1"]) -> Int[Tensor, "row 1"]:
    """Return the first place where the running sum passes the share `level` of the total; never one without weight."""
    cumulative = weights.cumsum(dim=-1)
    total = cumulative[:, -1:]
    # Strictly below the total: rounding must not lead behind the last weight.
    height = torch.minimum(level * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, height, right=True)


def at(values: Tensor, index: Int[Tensor, " row"]) -> Tensor:
    """Return each row's value at its index."""
    return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)
