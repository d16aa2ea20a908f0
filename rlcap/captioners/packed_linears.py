"""Linear layers by oneDNN, their weights packed once a batch: on CPUs of many makers twice as fast as torch's default.

Torch multiplies float32 by MKL, which does not use the widest instructions of other makers' CPUs, and rearranges the
weights at every call: much of the work where rows are few, as in a decoding step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Forward = Callable[[Tensor], Tensor]


@contextmanager
def packed_linears(module: nn.Module) -> Iterator[None]:
    """Let the linear layers of a module on a CPU run by oneDNN inside the block, without gradients.

    A layer is packed when it is first called; what is written to its weights inside the block is not seen.
    """
    with run_by_onednn(module, _packing):
        yield


@contextmanager
def run_by_onednn(module: nn.Module, forward_of: Callable[[Any], Forward]) -> Iterator[None]:
    """Replace the forward pass of all linear layers that oneDNN can run, inside the block."""
    layers = [layer for layer in module.modules() if _can_run(layer)] if torch.backends.mkldnn.is_available() else []
    for layer in layers:
        layer.forward = forward_of(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def multiply(
    inputs: Float[Tensor, "... in"], weight: Tensor, bias: Float[Tensor, " out"] | None = None
) -> Float[Tensor, "... out"]:
    """Multiply by a weight `[out, in]`, packed or of any strides."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return output


def _can_run(layer: nn.Module) -> bool:
    # Subclasses may do more than multiply, and a forward of its own is somebody else's.
    if type(layer) not in (nn.Linear, Conv1D) or "forward" in vars(layer):
        return False
    weight: Any = layer.weight
    return bool(weight.dtype == torch.float32 and weight.device.type == "cpu")


def _packing(layer: Any) -> Forward:  # noqa: ANN401 - two classes without a common one
    packed: list[Tensor] = []

    def forward(inputs: Tensor) -> Tensor:
        if not packed:
            weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.t()
            num_rows = inputs.numel() // inputs.shape[-1]
            packed.append(torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), num_rows))
        return multiply(inputs, packed[0], layer.bias)

    return forward
