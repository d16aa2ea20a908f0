"""Linear layers by oneDNN while they learn: forward and backward pass, with weights that change at every step.

See `packed_linears` for the reason. Weights that are multiplied by once or twice are not worth packing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlcap.captioners.packed_linears import Forward, multiply, run_by_onednn


@contextmanager
def learning_linears(module: nn.Module) -> Iterator[None]:
    """Let the linear layers of a module on a CPU run by oneDNN inside the block, which holds both passes."""
    with run_by_onednn(module, _learning):
        yield


def _learning(layer: Any) -> Forward:  # noqa: ANN401 - two classes without a common one
    def forward(inputs: Tensor) -> Tensor:
        weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.t()
        output: Tensor = _Product.apply(inputs, weight, layer.bias)  # type: ignore[no-untyped-call]
        return output

    return forward


class _Product(torch.autograd.Function):
    """Inputs by a weight `[out, in]`, and a bias."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch gives it no type
        inputs: Float[Tensor, "... in"],
        weight: Float[Tensor, "out in"],
        bias: Float[Tensor, " out"] | None,
    ) -> Float[Tensor, "... out"]:
        ctx.save_for_backward(inputs, weight)
        return multiply(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        gradient: Float[Tensor, "... out"],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        rows = _as_rows(gradient)
        return (
            multiply(gradient, weight.t()) if of_inputs else None,
            _of_weight(rows, _as_rows(inputs)) if of_weight else None,
            rows.sum(dim=0) if of_bias else None,
        )


def _as_rows(values: Float[Tensor, "... dim"]) -> Float[Tensor, "row dim"]:
    return values.reshape(-1, values.shape[-1])


def _of_weight(gradient: Float[Tensor, "row out"], inputs: Float[Tensor, "row in"]) -> Float[Tensor, "out in"]:
    """Return `gradient.T @ inputs`; oneDNN is the faster, the fewer rows and the more columns the result has."""
    if not len(inputs):  # oneDNN refuses to sum over nothing
        return gradient.t() @ inputs
    if gradient.shape[1] > inputs.shape[1]:
        return multiply(inputs.t(), gradient.t()).t()
    return multiply(gradient.t(), inputs.t())
