"""Master weights: what is trained is held in float32, in whatever precision its checkpoint came.

A step of 1e-5 is less than the spacing of bfloat16 at the size of most weights, and Adam's moments leave the range of
float16 (Micikevicius et al., 2018, Mixed Precision Training). Weights are rounded only on their way out: to actors by
`weights`, to disk by `held_in`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from rlcap.config.precision import Precision, SaveDtype

HALF = (torch.bfloat16, torch.float16)
CPU = torch.device("cpu")


def hold_masters(module: nn.Module, device: torch.device = CPU) -> None:
    """Hold in float32 all that is trained below `module`, in place; call it before an optimiser is made.

    What is frozen keeps its dtype where `device`, on which it will compute, computes in it. Tied weights stay tied.
    """
    for layer in module.modules():
        own = [*layer.parameters(recurse=False)]
        # A layer whose weights are trained in part has no use for the others in another precision.
        trains = any(parameter.requires_grad for parameter in own)
        for tensor in chain(own, layer.buffers(recurse=False)):
            if tensor.dtype in HALF and (trains or not computes_in(device, tensor.dtype)):
                tensor.data = tensor.data.float()


def computes_in(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether a device has arithmetic of its own for a dtype: CPUs emulate float16, and many layers lack it."""
    return dtype is not torch.float16 or device.type != "cpu"


def trains_in_bfloat16(weights: Iterable[Tensor], precision: Precision) -> bool:
    """Tell whether passes over these weights compute in bfloat16, by `torch.autocast`, where that is asked for.

    Frozen weights in float16 compute in that: autocast to the one knows no tensors in the other.
    """
    return precision is Precision.bfloat16 and all(one.dtype != torch.float16 for one in weights)


def dtype_on_disk(setting: SaveDtype, loaded: torch.dtype) -> torch.dtype:
    """Return what weights that came in one dtype are saved in."""
    if setting is SaveDtype.as_loaded:
        return loaded
    dtype: torch.dtype = getattr(torch, setting.value)
    return dtype


@contextmanager
def held_in(dtype: torch.dtype, *modules: nn.Module) -> Iterator[None]:
    """Hold weights and buffers rounded to a dtype inside the block, as they are to be saved; masters come back."""
    tensors = {id(one): one for module in modules for one in chain(module.parameters(), module.buffers())}
    changed = [one for one in tensors.values() if one.is_floating_point() and one.dtype != dtype]
    masters: list[Tensor] = [one.data for one in changed]
    try:
        for one in changed:
            one.data = one.data.to(dtype)
        yield
    finally:
        for one, master in zip(changed, masters, strict=True):
            one.data = master
