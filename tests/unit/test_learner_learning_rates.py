import pytest
import torch
from tiny_captioners import adopt
from torch import nn

from learner.learning_rates import EVERYTHING, parameter_groups
from rlcap.config.captioner import ADAPTERS_RATE, NEW_RATE, PRETRAINED_RATE, CaptionerConfig, DecoderTuning
from rlcap.errors import RlcapError
from rlcap.pipeline.teaching import pretrained_parts


def rates_of(captioner, groups):
    """The learning rate of each parameter by its name."""
    names = {id(parameter): name for name, parameter in captioner.named_parameters()}
    return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


def trained(captioner):
    return {name for name, one in captioner.named_parameters() if one.requires_grad and "value_head" not in name}


@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_a_captioner_from_scratch_is_one_group_of_new_weights(make_captioner, freeze_encoder):
    captioner = make_captioner(freeze_encoder=freeze_encoder)
    (group,) = parameter_groups(captioner, 0.0, pretrained_parts(CaptionerConfig()))
    assert group["lr"] == NEW_RATE
    assert set(rates_of(captioner, [group])) == trained(captioner)


@pytest.mark.parametrize("architecture", ["whisper", "qwen2_audio"])
@pytest.mark.parametrize("decoder", [DecoderTuning.full, DecoderTuning.lora])
def test_a_checkpoint_is_pretrained_and_adapters_on_it_are_not(tiny_checkpoint, architecture, decoder):
    directory = tiny_checkpoint(architecture)
    captioner = adopt(architecture, directory, decoder=decoder, freeze_encoder=False)
    groups = parameter_groups(captioner, 0.0, pretrained_parts(CaptionerConfig(checkpoint=str(directory))))
    rates = rates_of(captioner, groups)
    assert set(rates) == trained(captioner)
    assert {rate for name, rate in rates.items() if "lora_" not in name} == {PRETRAINED_RATE}
    adapters = {rate for name, rate in rates.items() if "lora_" in name}
    assert adapters == ({ADAPTERS_RATE} if decoder is DecoderTuning.lora else set())


def test_what_is_new_in_front_of_a_given_language_model_learns_at_a_rate_of_its_own(make_captioner):
    captioner = make_captioner(freeze_encoder=False)
    config = CaptionerConfig(language_model="gpt2")
    rates = rates_of(captioner, parameter_groups(captioner, 0.0, pretrained_parts(config)))
    assert {rate for name, rate in rates.items() if name.startswith("language_model.")} == {PRETRAINED_RATE}
    others = {name.split(".")[0]: rate for name, rate in rates.items() if not name.startswith("language_model.")}
    assert others == {"audio_tower": NEW_RATE, "segments_to_prefix": NEW_RATE, "clip_to_prefix": NEW_RATE}
    config = CaptionerConfig(language_model="gpt2", audio_encoder="clap")
    rates = rates_of(captioner, parameter_groups(captioner, 0.0, pretrained_parts(config)))
    assert {rate for name, rate in rates.items() if name.startswith("audio_tower.")} == {PRETRAINED_RATE}


def test_a_rate_that_is_given_is_that_of_everything(make_captioner):
    captioner = make_captioner()
    groups = parameter_groups(captioner, 3e-4, ("language_model",))
    assert set(rates_of(captioner, groups).values()) == {3e-4}


def test_a_captioner_with_nothing_to_train_is_refused():
    module = nn.ModuleDict({"decoder": nn.Linear(2, 2), "value_head": nn.Linear(2, 1)})
    module["decoder"].requires_grad_(False)
    with pytest.raises(RlcapError, match="no trainable parameter"):
        parameter_groups(module, 0.0, EVERYTHING)
    torch.optim.AdamW(parameter_groups(module.requires_grad_(True), 0.0, EVERYTHING))
