"""Sums over the learners of a group; one learner alone sums nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, distributed, nn


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
