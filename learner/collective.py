"""Sums over the learners of a group; one learner alone sums nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, distributed, nn

from rlcap.errors import ActorLostError


class Collective(Protocol):
    """What an update knows of the other learners."""

    rank: int
    num_learners: int

    def sum_in_place(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over all learners; all must call it, in the same order."""
        ...

    def copy_from_first(self, tensor: Tensor) -> None:
        """Replace `tensor` by that of learner 0."""
        ...


class SingleLearner:
    """A group of one."""

    rank = 0
    num_learners = 1

    def sum_in_place(self, tensor: Tensor) -> None:
        """Leave the only summand as it is."""

    def copy_from_first(self, tensor: Tensor) -> None:
        """Leave the only copy as it is."""


class LearnerProcessGroup:
    """The default process group of torch.distributed (gloo or NCCL)."""

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.num_learners = distributed.get_world_size()

    def sum_in_place(self, tensor: Tensor) -> None:
        """Sum over all learners; the result is bitwise the same on each."""
        distributed.all_reduce(tensor)

    def copy_from_first(self, tensor: Tensor) -> None:
        """Broadcast from learner 0."""
        distributed.broadcast(tensor, src=0)


@contextmanager
def all_or_none(collective: Collective, device: torch.device) -> Iterator[None]:
    """Run a learner's own part of common work; if it fails on one learner, it ends on all.

    Otherwise those that are well would wait without end for the one that is not.

    Raises:
        ActorLostError: If another learner failed.
    """
    if collective.num_learners == 1:
        yield
        return
    num_failed = torch.ones(1, device=device)
    try:
        yield
        num_failed.zero_()
    finally:
        collective.sum_in_place(num_failed)
    if num_failed:
        raise ActorLostError("another learner of the group failed in this update; its own error says why")


def sum_gradients(parameters: Iterable[nn.Parameter], collective: Collective) -> None:
    """Sum gradients over the group, one message a dtype; a parameter that a learner did not use counts as zero."""
    if collective.num_learners == 1:
        return
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for group in by_dtype.values():
        gradients = [parameter.grad for parameter in group if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        collective.sum_in_place(flat)
        totals = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, total in zip(gradients, totals, strict=True):
            gradient.copy_(total.view_as(gradient))
