"""Tuning, saving and loading captioners of every architecture, with and without rlcap."""

import json
import subprocess
import sys

import numpy as np
import plain_captioner
import pytest
import torch
from tiny_captioners import PROMPTS, adopt, count_heard_clips, heard, sample, scored, shake, written
from tiny_models import ARCHITECTURES

from rlcap.captioners.loading import adopt_captioner, load_captioner
from rlcap.config.captioner import CaptionerConfig, DecoderTuning
from rlcap.errors import CheckpointError

CLOSE = {"rtol": 0, "atol": 1e-4}
LORA = {"decoder": DecoderTuning.lora, "lora_rank": 2}
TUNINGS = {"full": {}, "merged": LORA, "adapters": {**LORA, "adapters_alone": True}}
IN_EVERY_WAY = ("whisper", "qwen2_audio")
GROUPS = torch.tensor([0, 0, 1, 1, 1])
NUM_LAYERS = 2
LINEAR_LAYERS = {"whisper": 10, "speech_gpt2": 7, "speech_bart": 10, "qwen2_audio": 7, "audio_flamingo_3": 7}

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@pytest.fixture
def clips(make_clips):
    return make_clips(1.0, 0.4)


def log_probs(captioner, clips, sampled):
    return scored(captioner, heard(captioner, clips), GROUPS, sampled).log_probs


def sampled_by(captioner, clips):
    return sample(captioner, heard(captioner, clips), GROUPS, seed=1)


@pytest.fixture(scope="module")
def without_rlcap(tiny_checkpoint, make_captioner, make_clips, tmp_path_factory):
    """Tune captioners of every family, and return what they write greedily here, and where rlcap is not installed."""
    folder, clips = tmp_path_factory.mktemp("tuned"), make_clips(1.0, 0.4, 2.0)
    waveforms = []
    for clip in clips:
        waveforms.append(str(folder / f"{clip.clip_id}.npy"))
        np.save(waveforms[-1], clip.waveform)
    jobs, here = {}, {}

    def tune(name, captioner, job):
        shake(captioner)
        captioner.save(folder / name)
        encoding = heard(captioner, clips)
        jobs[name] = {"directory": str(folder / name), "waveforms": waveforms, "max_new_tokens": 10, **job(encoding)}
        here[name] = written(captioner, sample(captioner, encoding, torch.arange(3)))

    for architecture in ARCHITECTURES:
        kinds = TUNINGS if architecture in IN_EVERY_WAY else {"merged": LORA}
        for kind, settings in kinds.items():
            captioner = adopt(architecture, tiny_checkpoint(architecture), **settings)
            tune(f"{architecture}-{kind}", captioner, lambda _, name=architecture: {"prompt": PROMPTS[name]})

    def behind_a_prefix(encoding):
        np.save(folder / "prefix.npy", encoding.states.numpy())
        return {"directory": str(folder / "prefix" / "language_model"), "prefix": str(folder / "prefix.npy")}

    tune("prefix", make_captioner(), behind_a_prefix)
    finished = subprocess.run(
        [sys.executable, plain_captioner.__file__],
        input=json.dumps(list(jobs.values())),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return here, dict(zip(jobs, json.loads(finished.stdout), strict=True))


def test_tuned_captioners_write_the_same_in_plain_transformers_without_rlcap(without_rlcap):
    here, there = without_rlcap
    assert there == here
    assert {name.partition("-")[0] for name in here} == {*ARCHITECTURES, "prefix"}
    assert len({str(captions) for captions in here.values()}) > len(here) / 2, "they were tuned differently"


@every_architecture
@pytest.mark.parametrize("tuning", [{}, LORA], ids=["full", "lora"])
def test_the_reference_stays_the_baseline_and_shares_what_is_frozen(tiny_checkpoint, clips, architecture, tuning):
    captioner = adopt(architecture, tiny_checkpoint(architecture), **tuning)
    sampled = sampled_by(captioner, clips)
    baseline = log_probs(captioner, clips, sampled)
    reference = captioner.frozen_reference()
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    theirs = {parameter.data_ptr() for parameter in reference.parameters()}
    for name, parameter in captioner.named_parameters():
        assert (parameter.data_ptr() in theirs) is not parameter.requires_grad, name
    shake(captioner)
    torch.testing.assert_close(log_probs(reference, clips, sampled), baseline, **CLOSE)
    assert not torch.allclose(log_probs(captioner, clips, sampled), baseline, **CLOSE)


@every_architecture
def test_adapters_that_are_off_are_the_reference(tiny_checkpoint, clips, architecture):
    plain = adopt(architecture, tiny_checkpoint(architecture))
    sampled = sampled_by(plain, clips)
    captioner = adopt(architecture, tiny_checkpoint(architecture), **LORA)
    shake(captioner)
    found = log_probs(captioner.frozen_reference(), clips, sampled)
    torch.testing.assert_close(found, log_probs(plain, clips, sampled), **CLOSE)


@every_architecture
def test_lora_tunes_adapters_of_the_decoder_and_the_critic_alone(tiny_checkpoint, architecture):
    captioner = adopt(architecture, tiny_checkpoint(architecture), **LORA)
    tuned = {name for name, parameter in captioner.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith("value_head") for name in tuned)
    layers = {name.split(".lora_")[0] for name in tuned if "lora_" in name}
    assert len(layers) == NUM_LAYERS * LINEAR_LAYERS[architecture]


@every_architecture
def test_a_frozen_encoder_is_not_tuned_and_a_free_one_is(tiny_checkpoint, clips, architecture):
    for freeze_encoder in (True, False):
        captioner = adopt(architecture, tiny_checkpoint(architecture), freeze_encoder=freeze_encoder)
        sampled = sampled_by(captioner, clips)
        features = captioner.features(clips)
        encoding = captioner.encode(torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask))
        output = captioner.log_probs(encoding, GROUPS, sampled.tokens, sampled.action_mask, 1.0)
        output.log_probs.sum().backward()
        first = next(module for module in captioner.encoder.modules() if isinstance(module, torch.nn.Conv1d))
        assert (first.weight.grad is None) is freeze_encoder


@every_architecture
def test_merged_adapters_are_the_captioner_of_the_next_run_and_its_reference(
    tiny_checkpoint, clips, architecture, tmp_path
):
    captioner = adopt(architecture, tiny_checkpoint(architecture), **LORA)
    shake(captioner)
    sampled = sampled_by(captioner, clips)
    expected = log_probs(captioner, clips, sampled)
    captioner.save(tmp_path)
    torch.testing.assert_close(log_probs(captioner, clips, sampled), expected, rtol=0, atol=0)
    loaded = load_captioner(tmp_path)
    assert loaded.parts == captioner.parts
    for one in (loaded, loaded.frozen_reference()):
        torch.testing.assert_close(log_probs(one, clips, sampled), expected, **CLOSE)
    values = [scored(one, heard(one, clips), GROUPS, sampled).values for one in (captioner, loaded)]
    torch.testing.assert_close(*values, **CLOSE)


@every_architecture
def test_adapters_alone_are_small_and_their_reference_is_the_base(tiny_checkpoint, clips, architecture, tmp_path):
    base = adopt(architecture, tiny_checkpoint(architecture))
    sampled = sampled_by(base, clips)
    base.save(tmp_path / "base")
    captioner = adopt(architecture, tmp_path / "base", **LORA, adapters_alone=True)
    shake(captioner)
    expected = log_probs(captioner, clips, sampled)
    captioner.save(tmp_path / "one")
    load_captioner(tmp_path / "one").save(tmp_path / "two")
    for name in ("one", "two"):
        assert not (tmp_path / name / "model.safetensors").exists()
        assert str(tmp_path) not in (tmp_path / name / "adapter_config.json").read_text(), "the link is relative"
        loaded = load_captioner(tmp_path / name)
        torch.testing.assert_close(log_probs(loaded, clips, sampled), expected, **CLOSE)
        reference = loaded.frozen_reference()
        torch.testing.assert_close(log_probs(reference, clips, sampled), log_probs(base, clips, sampled), **CLOSE)


def test_adapters_of_another_model_and_damaged_ones_are_refused(tiny_checkpoint, tmp_path):
    captioner = adopt("whisper", tiny_checkpoint("whisper"), **LORA, adapters_alone=True)
    captioner.save(tmp_path / "adapters")
    weights = tmp_path / "adapters" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for damage in (b"", whole[: len(whole) // 2]):
        weights.write_bytes(damage)
        with pytest.raises(CheckpointError, match="adapters"):
            load_captioner(tmp_path / "adapters")
    weights.write_bytes(whole)
    settings = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tiny_checkpoint("qwen2_audio"))
    (tmp_path / "adapters" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="adapters"):
        load_captioner(tmp_path / "adapters")


@every_architecture
@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_the_encoder_hears_each_clip_once(tiny_checkpoint, make_clips, architecture, freeze_encoder):
    captioner = adopt(architecture, tiny_checkpoint(architecture), freeze_encoder=freeze_encoder)
    reference = captioner.frozen_reference()
    counts, theirs = count_heard_clips(captioner), count_heard_clips(reference)
    features = captioner.features(make_clips(1.0, 0.4, 1.0))
    frames, mask = torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask)
    index = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
    with torch.no_grad():
        encoding = captioner.encode(frames, mask)
        sampled = sample(captioner, encoding, index, seed=1)
        scored(captioner, encoding, index, sampled)
    assert sum(counts) == 3
    scored(reference, reference.encode(frames, mask), index, sampled)
    assert sum(counts) == 3
    assert sum(theirs) == (0 if freeze_encoder else 3), "a frozen encoder has heard for both"


@pytest.mark.parametrize(("architecture", "tuning"), [*((one, {}) for one in ARCHITECTURES), ("qwen2_audio", LORA)])
def test_gradient_checkpointing_computes_layers_again_and_gives_the_same_gradients(
    tiny_checkpoint, clips, architecture, tuning
):
    gradients, passes = [], []
    for checkpointing in (False, True):
        captioner = adopt(architecture, tiny_checkpoint(architecture), **tuning, gradient_checkpointing=checkpointing)
        shake(captioner)
        sampled = sampled_by(captioner, clips)
        encoding = heard(captioner, clips)
        norm = next(module for module in captioner.decoder_stack.modules() if "Attention" in type(module).__name__)
        counted = []
        norm.register_forward_pre_hook(lambda *_, counted=counted: counted.append(1))
        output = captioner.log_probs(encoding, GROUPS, sampled.tokens, sampled.action_mask, 0.7)
        (output.log_probs.sum() + output.entropy.sum() + output.values.sum()).backward()
        passes.append(len(counted))
        gradients.append({name: one.grad for name, one in captioner.named_parameters() if one.grad is not None})
    assert passes[1] == 2 * passes[0] > 0
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)
    copied = captioner.frozen_reference()
    torch.testing.assert_close(log_probs(copied, clips, sampled).shape, output.log_probs.shape)


@every_architecture
def test_a_new_critic_foresees_nothing_and_one_that_has_learned_is_kept(tiny_checkpoint, clips, architecture, tmp_path):
    new = adopt_captioner(tiny_checkpoint(architecture), CaptionerConfig(prompt=PROMPTS[architecture]))
    sampled = sampled_by(new, clips)
    assert not scored(new, heard(new, clips), GROUPS, sampled).values.any()
    learned = adopt(architecture, tiny_checkpoint(architecture))
    learned.save(tmp_path)
    expected = scored(learned, heard(learned, clips), GROUPS, sampled).values
    assert expected.any()
    for again in (load_captioner(tmp_path), adopt_captioner(tmp_path, CaptionerConfig(prompt=PROMPTS[architecture]))):
        torch.testing.assert_close(scored(again, heard(again, clips), GROUPS, sampled).values, expected, **CLOSE)
