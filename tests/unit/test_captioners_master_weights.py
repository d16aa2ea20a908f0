"""What is trained of checkpoints in every precision; `tests/slow` goes through all of them."""

import pytest
import torch
from half_precision import (
    DTYPES,
    FAMILIES,
    LORA,
    PPO,
    SUPERVISED,
    Checkpoints,
    check_an_update,
    to_train,
)
from torch import nn

from rlcap.captioners.master_weights import held_in, hold_masters

CUDA = torch.device("cuda")
SOME = (
    *((family, "bfloat16", PPO) for family in FAMILIES),
    *((family, "bfloat16", LORA) for family in ("whisper", "qwen2_audio", "prefix")),
    ("whisper", "float16", PPO),
    ("speech_gpt2", "float16", LORA),
    ("whisper", "bfloat16", SUPERVISED),
    ("prefix", "float16", SUPERVISED),
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("precisions"))


@pytest.mark.parametrize(("family", "dtype", "tuning"), SOME)
def test_an_update_of_a_half_precision_checkpoint_is_that_of_its_float32_twin(
    checkpoints, make_clips, family, dtype, tuning
):
    check_an_update(checkpoints, make_clips(1.0, 0.5), family, dtype, tuning)


@pytest.mark.parametrize("family", ["whisper", "qwen2_audio", "prefix"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_frozen_keeps_its_precision_where_the_device_computes_in_it(checkpoints, family, dtype):
    on_cpu = to_train(family, checkpoints.find(family, dtype), LORA)
    frozen = [one for one in on_cpu.parameters() if not one.requires_grad]
    assert {one.dtype for one in frozen} == {torch.float32 if dtype == "float16" else torch.bfloat16}
    on_gpu = to_train(family, checkpoints.find(family, dtype), LORA, device=CUDA)
    frozen = [one for one in on_gpu.parameters() if not one.requires_grad]
    assert {one.dtype for one in frozen} == {DTYPES[dtype]}


def test_tied_weights_stay_tied_and_layers_trained_in_part_are_held_whole():
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).bfloat16()
    module[1].weight = module[0].weight
    module[1].bias.requires_grad_(False)
    module[2].weight.requires_grad_(False)
    module[3].requires_grad_(False)
    hold_masters(module)
    assert module[1].weight is module[0].weight
    assert {one.dtype for one in (*module[:3].parameters(), module[2].running_var)} == {torch.float32}
    assert {one.dtype for one in module[3].parameters()} == {torch.bfloat16}


def test_weights_are_rounded_while_they_are_saved_and_come_back_to_the_bit():
    module = nn.BatchNorm1d(3)
    nn.init.normal_(module.weight)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    places = [one.data_ptr() for one in module.parameters()]
    with held_in(torch.float16, module):
        assert torch.equal(module.weight, before["weight"].half())
        assert module.num_batches_tracked.dtype == torch.int64
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [one.data_ptr() for one in module.parameters()] == places
