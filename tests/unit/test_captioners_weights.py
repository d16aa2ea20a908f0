import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from rlcap.captioners.adapters import add_lora
from rlcap.captioners.weights import load_into, publish
from rlcap.config.precision import Precision
from rlcap.errors import CheckpointError


class Mixed(nn.Module):
    """Tensors of several dtypes, a tied pair, a buffer, a scalar and a transposed parameter."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.coarse = nn.Linear(3, 5).to(torch.bfloat16)
        self.transposed = nn.Parameter(torch.randn(2, 3).T)
        self.scale = nn.Parameter(torch.randn(()))
        self.register_buffer("steps", torch.tensor(seed))
        self.register_buffer("empty", torch.zeros(0))


def assert_same(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert torch.equal(value, second[name]), name


def test_weights_arrive_bit_for_bit_in_every_dtype():
    source, target = Mixed(1), Mixed(2)
    load_into(target, pickle.loads(pickle.dumps(publish(source))))
    assert_same(source, target)
    assert target.head.weight is target.embedding.weight


def test_there_is_one_buffer_a_dtype_and_tied_weights_travel_once():
    flat = publish(Mixed(1))
    assert {name: buffer.dtype for name, buffer in flat.buffers.items()} == {
        "float32": np.float32,
        "bfloat16": np.uint16,
        "int64": np.int64,
    }
    assert flat.buffers["float32"].shape == (11 * 4 + 6 + 1,)
    assert flat.num_bytes == 4 * 51 + 2 * 20 + 8


def test_nan_payloads_and_negative_zero_survive_in_bfloat16():
    source, target = Mixed(1), Mixed(2)
    bits = torch.tensor([0x7FC1, 0xFFC0, 0x8000, 0x7F80, 0x0001], dtype=torch.uint16)
    with torch.no_grad():
        source.coarse.bias.copy_(bits.view(torch.bfloat16))
    load_into(target, publish(source))
    assert torch.equal(target.coarse.bias.view(torch.uint16), bits)


def test_published_weights_do_not_follow_the_module():
    source, target = Mixed(1), Mixed(2)
    flat = publish(source)
    with torch.no_grad():
        source.scale.add_(1.0)
    load_into(target, flat)
    assert target.scale != source.scale


def test_a_loaded_module_does_not_share_memory_and_read_only_buffers_are_fine():
    source, target = Mixed(1), Mixed(2)
    flat = publish(source)
    for buffer in flat.buffers.values():
        buffer.setflags(write=False)
    load_into(target, flat)
    before = {name: buffer.copy() for name, buffer in flat.buffers.items()}
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(1.0)
    for name, buffer in flat.buffers.items():
        assert np.array_equal(buffer, before[name], equal_nan=True)


def test_frozen_parameters_can_stay_behind():
    source, target = Mixed(1), Mixed(2)
    source.coarse.requires_grad_(requires_grad=False)
    flat = publish(source, trainable_only=True)
    assert "bfloat16" not in flat.buffers
    theirs = target.coarse.weight.clone()
    load_into(target, flat)
    assert torch.equal(target.coarse.weight, theirs)
    assert torch.equal(target.scale, source.scale)


def test_weights_of_another_architecture_are_refused_before_anything_changes():
    target = Mixed(2)
    before = target.embedding.weight.clone()
    wider, longer, counted = Mixed(1), Mixed(1), Mixed(1)
    wider.transposed = nn.Parameter(torch.zeros(4, 3))
    longer.extra = nn.Linear(1, 1)
    del counted.scale
    counted.register_buffer("scale", torch.zeros((), dtype=torch.int64))
    for source, complaint in [
        (wider, r"transposed is float32\[3, 2\] in this captioner but float32\[4, 3\]"),
        (longer, r"differ in extra\.bias, extra\.weight"),
        (counted, r"scale is float32\[\] in this captioner but int64\[\]"),
    ]:
        with pytest.raises(CheckpointError, match=complaint):
            load_into(target, publish(source))
    assert torch.equal(target.embedding.weight, before)


def test_a_coarser_module_takes_weights_rounded():
    source, target = nn.Linear(3, 3), nn.Linear(3, 3).to(torch.bfloat16)
    load_into(target, publish(source))
    assert torch.equal(target.weight, source.weight.to(torch.bfloat16))


def test_weights_that_lack_a_tensor_are_refused():
    target = Mixed(2)
    target.extra = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match=r"differ in extra\.bias"):
        load_into(target, publish(Mixed(1)))


def test_weights_can_be_rounded_on_the_wire_and_the_other_dtypes_stay_as_they_are():
    source, target = Mixed(1), Mixed(2)
    half = publish(source, precision=Precision.bfloat16)
    assert half.num_bytes == 2 * 51 + 2 * 20 + 8
    assert set(half.buffers) == {"bfloat16", "int64"}
    for buffer in half.buffers.values():
        buffer.setflags(write=False)
    load_into(target, half)
    assert torch.equal(target.transposed, source.transposed.to(torch.bfloat16).float())
    assert torch.equal(target.scale, source.scale.to(torch.bfloat16).float())
    assert torch.equal(target.coarse.weight, source.coarse.weight)
    assert target.steps == source.steps
    before = copy.deepcopy(target.state_dict())
    load_into(target, publish(source))
    assert not torch.equal(target.transposed, before["transposed"]), "in full again"
    assert_same(source, target)


@pytest.mark.parametrize("precision", Precision)
def test_buffers_that_nobody_reads_any_more_are_filled_again(precision):
    source, target, expected = Mixed(1), Mixed(2), Mixed(3)
    first = publish(source, precision=precision)
    load_into(expected, publish(Mixed(4), precision=precision))
    again = publish(Mixed(4), precision=precision, into=first)
    assert again.buffers.keys() == first.buffers.keys()
    assert all(again.buffers[dtype] is buffer for dtype, buffer in first.buffers.items())
    load_into(target, again)
    assert_same(target, expected)


def test_buffers_that_are_laid_out_otherwise_are_left_alone():
    source, target, other = Mixed(1), Mixed(2), Mixed(3)
    half = publish(other, precision=Precision.bfloat16)
    before = {dtype: buffer.copy() for dtype, buffer in half.buffers.items()}
    load_into(target, publish(source, into=half))
    assert_same(source, target)
    source.coarse.requires_grad_(requires_grad=False)
    target = Mixed(2)
    load_into(target, publish(source, trainable_only=True, into=publish(source)))
    assert torch.equal(target.scale, source.scale)
    for dtype, buffer in half.buffers.items():
        assert np.array_equal(buffer, before[dtype])


def test_a_run_that_trains_adapters_sends_the_adapters_alone(make_captioner):
    policy, actor = make_captioner(), make_captioner()
    for captioner in (policy, actor):
        add_lora(captioner.language_model, captioner.language_model.transformer, rank=2, alpha=4.0)
        captioner.audio_tower.requires_grad_(requires_grad=False)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.add_(1.0)
    sent = publish(policy, trainable_only=True)
    names = {place.name for place in sent.places}
    adapters = {name for name in names if "lora_" in name}
    assert adapters
    assert not {name for name, _ in policy.language_model.named_parameters(prefix="language_model")} & names - adapters
    assert sent.num_bytes < 0.5 * publish(policy).num_bytes
    load_into(actor, sent)
    assert_same(policy, actor)
