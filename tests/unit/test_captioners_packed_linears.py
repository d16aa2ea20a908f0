import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rlcap.captioners.packed_linears import packed_linears


class Doubled(nn.Linear):
    """Does more than multiply."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96), Conv1D(32, 96), nn.Linear(32, 40, bias=False), Doubled(40, 8))


@pytest.mark.parametrize("shape", [(128, 48), (3, 48), (4, 7, 48), (1, 1, 48)])
def test_packed_layers_multiply_as_they_did(shape):
    model, inputs = layers(), torch.randn(*shape)
    expected = copy.deepcopy(model).double()(inputs.double())
    with torch.inference_mode(), packed_linears(model):
        for rows in (inputs, inputs[:1], inputs):  # rows leave the batch, and another one begins
            found = model(rows)
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_layers_are_as_before_behind_the_block_and_see_new_weights():
    model, inputs = layers(), torch.randn(5, 48)
    with torch.no_grad(), packed_linears(model):
        before = model(inputs)
    assert not any("forward" in vars(layer) for layer in model)
    with torch.no_grad():
        model[0].weight.mul_(2)
        with packed_linears(model):
            after = model(inputs)
        torch.testing.assert_close(after, model(inputs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after, before)
    model(inputs).sum().backward()
    assert model[0].weight.grad is not None


def test_layers_in_other_precisions_are_left_alone():
    model, inputs = layers().double(), torch.randn(5, 48, dtype=torch.float64)
    with torch.no_grad(), packed_linears(model):
        assert torch.equal(model(inputs), layers().double()(inputs))
