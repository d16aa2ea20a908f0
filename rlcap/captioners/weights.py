"""Weights on their way from the learner to the actors: one flat buffer a dtype, and where each tensor lies in it.

Ray puts a few large numpy buffers into shared memory at the speed of a copy, and readers map them without one; a
state dict of tensors takes many times as long. numpy has no bfloat16: its bits travel as uint16.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rlcap.errors import CheckpointError

_BITS = {torch.bfloat16: torch.uint16}


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where one tensor lies in the buffer of its dtype."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Index of the first element."""


@dataclass(frozen=True, slots=True)
class FlatWeights:
    """A state dict in few buffers; out of Ray they are read-only and shared with other processes."""

    buffers: dict[str, np.ndarray]
    """By torch dtype, one-dimensional."""
    places: tuple[TensorPlace, ...]
    left_out: tuple[str, ...]
    """Tensors that never change and are not sent."""

    @property
    def num_bytes(self) -> int:
        """Size of all buffers."""
        return sum(buffer.nbytes for buffer in self.buffers.values())


def publish(module: nn.Module, *, trainable_only: bool = False) -> FlatWeights:
    """Copy a module's state into flat buffers in main memory, ready for `ray.put`.

    With `trainable_only`, parameters that are frozen stay behind: whoever loads the result has them already.
    Tensors that share memory (tied weights) are sent once.
    """
    frozen = {name for name, parameter in module.named_parameters() if trainable_only and not parameter.requires_grad}
    own = _distinct_tensors(module)
    sent = {name: tensor for name, tensor in own.items() if name not in frozen}
    sizes: dict[torch.dtype, int] = {}
    places = []
    for name, tensor in sent.items():
        start = sizes.get(tensor.dtype, 0)
        places.append(TensorPlace(name, _name(tensor.dtype), tuple(tensor.shape), start))
        sizes[tensor.dtype] = start + tensor.numel()
    # numpy asks the system for huge pages: filling its memory takes a third of the time of torch's.
    buffers = {_name(dtype): np.empty(size, _numpy_dtype(dtype)) for dtype, size in sizes.items()}
    for place, tensor in zip(places, sent.values(), strict=True):
        target = torch.from_numpy(buffers[place.dtype][place.start : place.start + tensor.numel()])
        target.view(tensor.dtype).copy_(tensor.reshape(-1))
    return FlatWeights(
        buffers=buffers,
        places=tuple(places),
        left_out=tuple(name for name in own if name in frozen),
    )


@torch.no_grad()
def load_into(module: nn.Module, weights: FlatWeights) -> None:
    """Copy published weights into a module of the same architecture; nothing of it aliases the buffers afterwards.

    A module that computes in another floating-point precision takes them rounded to it.

    Raises:
        CheckpointError: If a tensor is missing, unknown, or of another shape or kind; then nothing was changed.
    """
    own = _distinct_tensors(module)
    _check_fit(own, weights)
    sent = {dtype: _read_only(buffer).view(getattr(torch, dtype)) for dtype, buffer in weights.buffers.items()}
    for place in weights.places:
        target = own[place.name]
        target.copy_(sent[place.dtype][place.start : place.start + target.numel()].view(target.shape))


def _read_only(buffer: np.ndarray) -> Tensor:
    """See a buffer as a tensor that must not be written to: torch has no read-only ones, and warns of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(buffer)


def _distinct_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict with one name for each piece of memory."""
    distinct: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in module.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        distinct[name] = tensor.detach()
    return distinct


def _check_fit(own: dict[str, Tensor], weights: FlatWeights) -> None:
    sent = {place.name: place for place in weights.places}
    strangers = sorted(own.keys() ^ (sent.keys() | set(weights.left_out)))
    if strangers:
        raise CheckpointError(f"weights and captioner differ in {', '.join(strangers[:5])}: load the same checkpoint")
    for name, place in sent.items():
        found, given = own[name], getattr(torch, place.dtype)
        same_kind = found.dtype == given or (found.is_floating_point() and given.is_floating_point)
        if not same_kind or tuple(found.shape) != place.shape:
            raise CheckpointError(
                f"{name} is {_name(found.dtype)}{list(found.shape)} in this captioner but {place.dtype}"
                f"{list(place.shape)} in the weights: load the same checkpoint"
            )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """Return the numpy dtype of the same size and, where numpy has it, the same meaning."""
    same: np.dtype = torch.empty(0, dtype=_BITS.get(dtype, dtype)).numpy().dtype
    return same
