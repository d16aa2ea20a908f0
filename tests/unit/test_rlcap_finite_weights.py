"""Weights that are not finite, at every place where weights come in, are made, or are kept."""

import shutil

import numpy as np
import pytest
import torch
from half_precision import FAMILIES, LORA, Checkpoints, to_train
from safetensors.torch import load_file, save_file
from small_captioner import make_update
from tiny_parts import save_clap, save_language_model
from tiny_run import build_reward

from learner import saved_state
from reward_server.scoring import ClapReward
from rlcap.captioners.loading import adopt_captioner, load_captioner
from rlcap.captioners.prefix_parts import build_around_language_model
from rlcap.config.captioner import CaptionerConfig
from rlcap.config.run import RunConfig
from rlcap.errors import CheckpointError
from rlcap.finite_weights import not_finite, refuse_loaded
from rlcap.pipeline.stages import Stages

BAD = (np.nan, np.inf, -np.inf)
ENDLESS = 1e30
"""A learning rate after which numbers overflow."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("sound"))


def spoil(path, name=None, value=np.nan):
    """Write one number that is not finite into a safetensors file; return the name of its tensor."""
    state = load_file(path)
    name = name or sorted(name for name, one in state.items() if one.is_floating_point())[-1]
    state[name].view(-1)[-1] = value
    save_file(state, path, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", BAD)
def test_the_tensors_that_are_not_finite_are_named_and_no_others(dtype, value):
    sound = {f"sound {place}": torch.randn(3, 4, dtype=dtype) for place in range(3)}
    whole = {"whole numbers": torch.arange(3), "empty": torch.zeros(0), "largest": torch.tensor(torch.finfo(dtype).max)}
    spoilt = torch.randn(5, dtype=dtype)
    spoilt[3] = value
    assert not_finite({**sound, "spoilt": spoilt, **whole}) == ["spoilt"]
    assert not_finite(whole | sound) == []
    with pytest.raises(CheckpointError, match=r"here holds .* a, b, c and 2 more"):
        refuse_loaded(dict.fromkeys("abcde", spoilt), "here")


@pytest.mark.parametrize("load", [load_captioner, lambda path: adopt_captioner(path, CaptionerConfig())])
@pytest.mark.parametrize("family", FAMILIES)
def test_captioners_are_refused(checkpoints, tmp_path, family, load):
    shutil.copytree(checkpoints.find(family, "bfloat16"), tmp_path / "spoilt")
    name = spoil(next((tmp_path / "spoilt").rglob("model.safetensors")))
    with pytest.raises(CheckpointError, match=name.rsplit(".", 2)[-2]):
        load(tmp_path / "spoilt")


@pytest.mark.parametrize("file", ["value_head.safetensors", "adapter_model.safetensors", "audio_encoder.safetensors"])
def test_what_lies_beside_a_model_is_looked_at_too(checkpoints, tmp_path, file):
    family = "prefix" if file.startswith("audio") else "whisper"
    captioner = to_train(family, checkpoints.find(family, "float32"), LORA, adapters_alone=file.startswith("adapter"))
    captioner.base = checkpoints.find(family, "float32")
    captioner.save(tmp_path / "spoilt")
    spoil(tmp_path / "spoilt" / file)
    with pytest.raises(CheckpointError, match="not finite"):
        load_captioner(tmp_path / "spoilt")


@pytest.mark.parametrize("part", ["language_model", "audio_encoder"])
def test_parts_of_new_captioners_are_refused_by_their_setting(tmp_path, part):
    parts = {
        "language_model": save_language_model("llama", tmp_path / "llama"),
        "audio_encoder": save_clap(tmp_path / "clap"),
    }
    name = "audio_model.audio_encoder.layers.0.blocks.0.layernorm_after.weight" if part == "audio_encoder" else None
    spoil(parts[part] / "model.safetensors", name)
    config = CaptionerConfig(**{name: str(path) for name, path in parts.items()}, prefix_length=4)
    with pytest.raises(CheckpointError, match=rf"captioner\.{part}=.*not finite"):
        build_around_language_model(config, encoder_channels=(4, 4, 8, 8), dropout=0.0)


@pytest.mark.parametrize("file", ["head.safetensors", "clap/model.safetensors"])
def test_reward_models_are_refused(tmp_path, file):
    build_reward().save(tmp_path)
    name = spoil(tmp_path / file)
    with pytest.raises(CheckpointError, match=rf"not finite, in {name}"):
        ClapReward.load(tmp_path)


def test_a_learner_goes_on_from_no_such_checkpoint(tmp_path):
    update = make_update()
    with torch.no_grad():
        update.captioner.vocabulary.bias[2] = np.nan
    saved_state.save(update, tmp_path)
    with pytest.raises(CheckpointError, match=r"not finite, in vocabulary\.bias"):
        saved_state.load(make_update(), tmp_path)


def test_no_stage_keeps_such_weights(tmp_path):
    stages = Stages(RunConfig(cache_dir=str(tmp_path)))

    def build(path):
        (path / "deep").mkdir()
        save_file({"sound": torch.ones(2), "spoilt": torch.tensor([1.0, np.nan])}, path / "deep" / "model.safetensors")

    with pytest.raises(CheckpointError, match=r"the stage baseline .* in spoilt of deep/model\.safetensors"):
        stages._run("baseline", {}, build)
    assert not [*tmp_path.glob("baseline*/**/*.safetensors")]
