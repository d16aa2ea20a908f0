import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from rlcap.captioners.learning_linears import learning_linears


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 48), nn.GELU(), Conv1D(64, 48), Conv1D(20, 64), nn.Linear(20, 12, bias=False))


def gradients(model, inputs, *, run=None):
    inputs = inputs.clone().requires_grad_()
    output = (run or model)(inputs)
    (output * torch.linspace(-1, 1, output.shape[-1], dtype=output.dtype)).square().sum().backward()
    return [output.detach(), inputs.grad, *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("shape", [(40, 24), (3, 24), (4, 7, 24), (0, 24), (24,)])
def test_both_passes_are_those_of_float64(shape):
    model, inputs = layers(), torch.randn(*shape)
    expected = gradients(copy.deepcopy(model).double(), inputs.double())
    with learning_linears(model):
        found = gradients(model, inputs)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)


def test_layers_are_run_by_onednn_inside_the_block_alone():
    model, inputs = layers(), torch.randn(5, 24)
    with learning_linears(model):
        assert "_Product" in type(model(inputs).grad_fn).__name__
    assert "_Product" not in type(model(inputs).grad_fn).__name__


def test_what_is_frozen_gets_no_gradient():
    model, inputs = layers(), torch.randn(5, 24)
    model[0].requires_grad_(False)
    with learning_linears(model):
        found = model(inputs)
        found.sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())


def test_activations_may_be_computed_again_in_the_block():
    model, inputs = layers(), torch.randn(6, 24)
    plain = gradients(copy.deepcopy(model), inputs)
    with learning_linears(model):
        again = gradients(model, inputs, run=lambda it: checkpoint(model, it, use_reentrant=False))
    for mine, theirs in zip(again, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_layers_in_other_precisions_are_left_alone():
    model, inputs = layers().double(), torch.randn(5, 24, dtype=torch.float64)
    expected = gradients(copy.deepcopy(model), inputs)
    with learning_linears(model):
        found = gradients(model, inputs)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
