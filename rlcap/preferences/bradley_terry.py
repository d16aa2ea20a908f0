"""The model of pairwise preference of Bradley and Terry (1952): P(A over B) = sigmoid(score A - score B)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def bradley_terry_loss(
    scores_a: Float[Tensor, " pair"],
    scores_b: Float[Tensor, " pair"],
    share_for_a: Float[Tensor, " pair"],
    num_votes: Float[Tensor, " pair"],
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of a vote: pairs count by their votes, a tie counts half for each side.

    Scores must be raw: a sigmoid before the difference would confine P to [0.27, 0.73].
    """
    advantage = scores_a - scores_b
    # -[s log sigmoid(d) + (1 - s) log sigmoid(-d)], without overflow at either end.
    losses = functional.softplus(advantage) - share_for_a * advantage
    return torch.dot(losses, num_votes) / num_votes.sum()
