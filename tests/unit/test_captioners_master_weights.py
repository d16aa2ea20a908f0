"""What is trained of checkpoints in every precision; `tests/slow` goes through all of them."""

import json

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
    check_resume,
    to_train,
)
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from tiny_captioners import shake
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    ClapAudioModel,
    Qwen2AudioForConditionalGeneration,
    WhisperForConditionalGeneration,
)

from rlcap.captioners.loading import load_captioner
from rlcap.captioners.master_weights import held_in, hold_masters
from rlcap.config.precision import SaveDtype
from rlcap.conformance.check_captioner import check_captioner

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


@pytest.mark.parametrize(("family", "tuning"), [("whisper", PPO), ("prefix", LORA)])
def test_a_learner_of_a_half_precision_checkpoint_goes_on_to_the_bit(checkpoints, make_clips, tmp_path, family, tuning):
    check_resume(checkpoints, make_clips(1.0, 0.5), tmp_path, family, "bfloat16", tuning)


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


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("tuning", [PPO, LORA])
@pytest.mark.parametrize("family", ["whisper", "qwen2_audio", "prefix"])
def test_a_tuned_captioner_is_saved_in_the_precision_that_it_came_in(checkpoints, tmp_path, family, tuning, dtype):
    captioner = to_train(family, checkpoints.find(family, dtype), tuning)
    shake(captioner)
    masters = {name: value.clone() for name, value in captioner.state_dict().items()}
    captioner.save(tmp_path)
    assert all(torch.equal(value, masters[name]) for name, value in captioner.state_dict().items())
    check_stored(tmp_path, family, dtype, merged_in_float64(captioner))


@pytest.mark.parametrize(
    ("dtype", "setting"), [("bfloat16", "float32"), ("float32", "bfloat16"), ("bfloat16", "float16")]
)
@pytest.mark.parametrize("family", ["qwen2_audio", "prefix"])
def test_a_setting_says_what_else_a_captioner_is_saved_in(checkpoints, tmp_path, family, dtype, setting):
    captioner = to_train(family, checkpoints.find(family, dtype), LORA, save_dtype=SaveDtype(setting))
    shake(captioner)
    captioner.save(tmp_path / "one")
    check_stored(tmp_path / "one", family, setting, merged_in_float64(captioner))
    again = load_captioner(tmp_path / "one")
    assert again.parts.save_dtype is SaveDtype(setting)
    again.save(tmp_path / "two")
    check_stored(tmp_path / "two", family, setting, merged_in_float64(captioner))


def test_adapters_saved_alone_beside_a_half_precision_base_lose_nothing(checkpoints, tmp_path):
    base = checkpoints.find("qwen2_audio", "bfloat16")
    captioner = to_train("qwen2_audio", base, LORA, adapters_alone=True)
    captioner.base = base
    shake(captioner)
    captioner.save(tmp_path)
    loaded = dict(load_captioner(tmp_path).named_parameters())
    adapters = {name: value for name, value in captioner.named_parameters() if "lora_" in name}
    assert adapters
    assert all(torch.equal(loaded[name], value) for name, value in adapters.items())


def merged_in_float64(captioner):
    """All weights of transformers' models by their names there, adapters merged, computed in the slow way."""
    parts = (
        [captioner.model] if hasattr(captioner, "model") else [captioner.language_model, captioner.audio_tower.model]
    )
    merged = {}
    for part in parts:
        for name, value in part.state_dict().items():
            if "lora_" not in name:
                merged[name.replace(".base_layer.", ".")] = value.double() if value.is_floating_point() else value
        for name, module in part.named_modules():
            if isinstance(module, LoraLayer):
                change = module.lora_B["default"].weight.double() @ module.lora_A["default"].weight.double()
                merged[f"{name}.weight"] = merged[f"{name}.weight"] + change * module.scaling["default"]
    return merged


def check_stored(directory, family, dtype, exact):
    """Hold what is stored to the nearest numbers of its precision: rounded twice, some would lie further off."""
    folders = [directory / "language_model", directory / "clap"] if family == "prefix" else [directory]
    for folder in folders:
        stored = load_file(folder / "model.safetensors").values()
        assert {value.dtype for value in stored if value.is_floating_point()} == {DTYPES[dtype]}
    assert all(config.get("dtype") in (None, dtype) for config in configs_in(directory))
    found = {}
    for model in load_in_transformers(directory, family):
        assert model.dtype == DTYPES[dtype]
        found |= model.state_dict()
    assert found.keys() == exact.keys()
    for name, value in found.items():
        if value.is_floating_point():
            room = 0.501 * torch.finfo(value.dtype).eps * exact[name].abs() + 1e-6
            assert bool(((value.double() - exact[name]).abs() <= room).all()), name


def load_in_transformers(directory, family):
    if family == "prefix":
        parts = {"language_model": AutoModelForCausalLM, "clap": ClapAudioModel}
        return [its_class.from_pretrained(directory / name) for name, its_class in parts.items()]
    classes = {"whisper": WhisperForConditionalGeneration, "qwen2_audio": Qwen2AudioForConditionalGeneration}
    return [classes[family].from_pretrained(directory)]


def configs_in(directory):
    """Every config of transformers, and those inside of them."""
    waiting = [json.loads(path.read_text()) for path in directory.rglob("config.json")]
    while waiting:
        config = waiting.pop()
        waiting += [value for value in config.values() if isinstance(value, dict)]
        yield config


@pytest.mark.parametrize("family", ["whisper", "prefix"])
def test_a_half_precision_checkpoint_holds_to_what_is_relied_on(checkpoints, family):
    captioner = load_captioner(checkpoints.find(family, "bfloat16"))
    assert [result for result in check_captioner(captioner) if not result.passed] == []
