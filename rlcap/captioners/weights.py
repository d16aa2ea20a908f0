"""Weights on their way from the learner to the actors: one flat buffer a dtype, and where each tensor lies in it.

Ray puts a few large numpy buffers into shared memory at the speed of a copy, and readers map them without one; a
state dict of tensors takes many times as long. numpy has no bfloat16: its bits travel as uint16.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rlcap.config.precision import Precision
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


def publish(
    module: nn.Module,
    *,
    trainable_only: bool = False,
    precision: Precision = Precision.float32,
    into: FlatWeights | None = None,
) -> FlatWeights:
    """Copy a module's state into flat buffers in main memory, ready for `ray.put`.

    Tensors that share memory (tied weights) are sent once.

    Args:
        module: It may live on any device.
        trainable_only: Leave out parameters that are frozen: whoever loads the result has them already.
        precision: With bfloat16, float32 tensors are rounded on the way; those of other dtypes stay as they are.
        into: Weights published before that nobody reads any more. Where they are laid out alike, their buffers are
            filled again: a copy into fresh memory takes twice as long, and many times where the system is short of it.
    """
    frozen = {name for name, parameter in module.named_parameters() if trainable_only and not parameter.requires_grad}
    own = _distinct_tensors(module)
    sent = {name: tensor for name, tensor in own.items() if name not in frozen}
    places, sizes = _lay_out(sent, precision)
    if into is not None and into.places == places:
        buffers = into.buffers
    else:
        # numpy asks the system for huge pages: filling its memory takes a third of the time of torch's.
        buffers = {_name(dtype): np.empty(size, _numpy_dtype(dtype)) for dtype, size in sizes.items()}
    for place, tensor in zip(places, sent.values(), strict=True):
        target = torch.from_numpy(buffers[place.dtype][place.start : place.start + tensor.numel()])
        target.view(getattr(torch, place.dtype)).copy_(tensor.reshape(-1))
    return FlatWeights(buffers, places, left_out=tuple(name for name in own if name in frozen))


def _lay_out(
    tensors: Mapping[str, Tensor], precision: Precision
) -> tuple[tuple[TensorPlace, ...], dict[torch.dtype, int]]:
    """Return where each tensor goes, and how many elements the buffer of each dtype has."""
    sizes: dict[torch.dtype, int] = {}
    places = []
    for name, tensor in tensors.items():
        rounds = precision is Precision.bfloat16 and tensor.dtype == torch.float32
        dtype = torch.bfloat16 if rounds else tensor.dtype
        start = sizes.get(dtype, 0)
        places.append(TensorPlace(name, _name(dtype), tuple(tensor.shape), start))
        sizes[dtype] = start + tensor.numel()
    return tuple(places), sizes


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


def tensors_in(weights: FlatWeights) -> dict[str, Tensor]:
    """Return published weights by name, as tensors; they share the buffers where these can be written to."""
    buffers = {dtype: buffer if buffer.flags.writeable else buffer.copy() for dtype, buffer in weights.buffers.items()}
    return {
        place.name: torch.from_numpy(buffers[place.dtype][place.start : place.start + math.prod(place.shape)])
        .view(getattr(torch, place.dtype))
        .view(place.shape)
        for place in weights.places
    }


@torch.no_grad()
def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy the tensors of `tensors_in` into a module; what is frozen there stays as it is.

    Raises:
        CheckpointError: If a tensor is missing, unknown, or of another shape or kind; then nothing was changed.
    """
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    own = _distinct_tensors(module)
    places = tuple(TensorPlace(name, _name(value.dtype), tuple(value.shape), 0) for name, value in tensors.items())
    _check_fit(own, FlatWeights({}, places, tuple(name for name in own if name in frozen and name not in tensors)))
    for name, value in tensors.items():
        own[name].copy_(value)


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
