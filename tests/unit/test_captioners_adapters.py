"""Adapters of peft as people have them: with a base that is there, and without."""

import copy
import json
import shutil
import subprocess

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_parts import save_language_model
from transformers import AutoModelForCausalLM, WhisperForConditionalGeneration

from rlcap.captioners.hf_checkpoints import load_model
from rlcap.captioners.loading import adopt_captioner, load_captioner
from rlcap.captioners.prefix_parts import build_around_language_model, check_parts
from rlcap.config.captioner import CaptionerConfig, DecoderTuning
from rlcap.errors import CheckpointError

# Of peft's own, and on tied weights that are saved apart, which is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning", "ignore::UserWarning:peft")
SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PROJECTIONS = ["q_proj", "v_proj"]
KINDS = {
    "lora": LoraConfig(r=2, target_modules=PROJECTIONS),
    "dora of some ranks": LoraConfig(r=2, target_modules=PROJECTIONS, use_dora=True, rank_pattern={"v_proj": 3}),
    "ia3": IA3Config(target_modules=[*PROJECTIONS, "fc2"], feedforward_modules=["fc2"]),
    "a module saved whole": LoraConfig(r=2, target_modules=PROJECTIONS, modules_to_save=["proj_out"]),
}


def write_adapters(model, config, base, directory):
    adapted = get_peft_model(model, copy.deepcopy(config))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    adapted.save_pretrained(directory)
    link(directory, base)
    return directory


def link(directory, base):
    settings = json.loads((directory / SETTINGS).read_text())
    (directory / SETTINGS).write_text(json.dumps({**settings, "base_model_name_or_path": base}))


@pytest.fixture
def adapters(tiny_checkpoint, tmp_path):
    base = tiny_checkpoint("whisper")
    model = WhisperForConditionalGeneration.from_pretrained(base)
    return write_adapters(model, KINDS["lora"], str(base), tmp_path / "adapters")


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_every_kind_become_part_of_the_weights(tiny_checkpoint, tmp_path, kind):
    base = tiny_checkpoint("whisper")
    plain = [WhisperForConditionalGeneration.from_pretrained(base) for _ in range(2)]
    directory = write_adapters(plain[0], KINDS[kind], str(base), tmp_path / "adapters")
    expected = PeftModel.from_pretrained(plain[1], directory).eval()
    captioner = load_captioner(directory)
    mel, tokens = torch.randn(1, 8, 200), torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        found = captioner.model(mel, decoder_input_ids=tokens).logits
        torch.testing.assert_close(found, expected(mel, decoder_input_ids=tokens).logits, rtol=0, atol=1e-4)
        captioner.save(tmp_path / "whole")
        again = WhisperForConditionalGeneration.from_pretrained(tmp_path / "whole").eval()
        torch.testing.assert_close(again(mel, decoder_input_ids=tokens).logits, found, rtol=0, atol=1e-5)


def test_a_run_begins_with_them_whatever_it_tunes(adapters):
    for decoder in (DecoderTuning.full, DecoderTuning.lora):
        captioner = adopt_captioner(adapters, CaptionerConfig(decoder=decoder, lora_rank=3), to_teach=True)
        learned = {name for name, one in captioner.model.named_parameters() if one.requires_grad}
        assert all("lora_" in name for name in learned) is (decoder is DecoderTuning.lora)
        assert learned


def test_a_language_model_may_be_adapters_too(tmp_path):
    base = save_language_model("opt", tmp_path / "base")
    plain = AutoModelForCausalLM.from_pretrained(base)
    directory = write_adapters(plain, LoraConfig(r=2, target_modules=PROJECTIONS), "../base", tmp_path / "adapters")
    config = CaptionerConfig(language_model=str(directory), prefix_length=4)
    check_parts(config)
    found = build_around_language_model(config, encoder_channels=(4, 4, 8, 8), dropout=0.0).language_model
    tokens = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(found(tokens).logits, plain.eval()(tokens).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        (None, "do not name the model"),
        ("", "do not name the model"),
        (3, "do not name the model"),
        ("openai/whisper-tiny", "belong to openai/whisper-tiny, which is no directory here"),
        ("/home/trainer/whisper", "belong to /home/trainer/whisper, which is no directory here"),
        (".", "which holds adapters itself"),
    ],
)
def test_a_base_that_is_not_there_is_named_with_where_to_name_another(adapters, base, said):
    link(adapters, base)
    with pytest.raises(CheckpointError, match=said) as refused:
        load_captioner(adapters)
    assert f"set base_model_name_or_path in {adapters / SETTINGS}" in str(refused.value)


def test_a_pickle_of_adapters_is_refused_and_the_command_in_the_message_converts_it(adapters):
    expected = load_file(adapters / WEIGHTS)
    torch.save(expected, adapters / "adapter_model.bin")
    (adapters / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="a pickle") as refused:
        load_captioner(adapters)
    subprocess.run(str(refused.value).partition("convert them once: ")[2], shell=True, check=True)
    found = load_file(adapters / WEIGHTS)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    load_captioner(adapters)


def garble_settings(folder):
    (folder / SETTINGS).write_text("{")


def nest_settings(folder):
    (folder / SETTINGS).write_text("[" * 100_000)


def name_another_kind(folder):
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps({**settings, "peft_type": "MINE"}))


def cut(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


def drop(folder):
    weights = load_file(folder / WEIGHTS)
    save_file(dict(sorted(weights.items())[1:]), folder / WEIGHTS)


def add(folder):
    save_file({**load_file(folder / WEIGHTS), "base_model.model.other.weight": torch.rand(2)}, folder / WEIGHTS)


def resize(folder):
    save_file({name: weight[:1] for name, weight in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)


def lose(folder):
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize("damage", [garble_settings, nest_settings, name_another_kind, cut, drop, add, resize, lose])
def test_damaged_adapters_are_refused_in_a_sentence(adapters, damage):
    damage(adapters)
    with pytest.raises(CheckpointError, match=str(adapters)) as refused:
        load_captioner(adapters)
    assert "\n" not in str(refused.value)


def test_a_whole_run_that_is_moved_takes_its_adapters_along(tiny_checkpoint, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_checkpoint("whisper"), run / "captioners/baseline")
    base = run / "captioners/baseline"
    model = WhisperForConditionalGeneration.from_pretrained(base)
    write_adapters(model, KINDS["lora"], "../baseline", run / "captioners/tuned")
    expected = load_model(WhisperForConditionalGeneration, run / "captioners/tuned").state_dict()
    run.rename(tmp_path / "elsewhere")
    found = load_model(WhisperForConditionalGeneration, tmp_path / "elsewhere/captioners/tuned").state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
