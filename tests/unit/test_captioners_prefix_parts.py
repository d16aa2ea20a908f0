"""Prefix captioners around language models and audio towers that are there already, at their smallest."""

import itertools
import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_parts import TOKENIZER, WORDS, save_clap, save_language_model
from transformers import AutoModelForCausalLM, AutoTokenizer, ClapAudioModel

from actors.sampler import sample_captions, score_as_drawn
from rlcap.audio.clap_input import clap_input
from rlcap.captioners.copying import copy_captioner
from rlcap.captioners.loading import adopt_captioner, load_captioner
from rlcap.captioners.prefix_parts import build_around_language_model, build_prefix_captioner, check_parts
from rlcap.captioners.tokenizer import build_word_tokenizer
from rlcap.config.captioner import CaptionerConfig, DecoderTuning, Mapper
from rlcap.errors import CheckpointError
from rlcap.types import PolicyFeatures

CLOSE = {"rtol": 0, "atol": 1e-4}
KINDS = ("gpt2", "opt", "llama", "bloom")
GROUPS = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3, 3, 3])
DURATIONS_S = (0.7, 0.1, 2.5, 1.0)
MAX_NEW_TOKENS = 8


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Directories of every part, by name."""
    root = tmp_path_factory.mktemp("parts")
    seeds = {"bloom": 5}  # others have it say one word only
    made = {kind: str(save_language_model(kind, root / kind, seeds.get(kind, 3))) for kind in KINDS}
    return {**made, "clap": str(save_clap(root / "clap")), "fused": str(save_clap(root / "fused", fused=True))}


@pytest.fixture
def build(parts):
    """Return a function that builds a captioner around the parts of these names."""

    def make(language_model="gpt2", audio_encoder="", **settings):
        config = CaptionerConfig(
            language_model=parts[language_model],
            audio_encoder=parts.get(audio_encoder, ""),
            **{"prefix_length": 4, "mapper_layers": 2, **settings},
        )
        check_parts(config)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build_around_language_model(config, encoder_channels=(4, 4, 8, 8), dropout=0.1).eval()

    return make


def encoded(captioner, clips):
    features = captioner.features(clips)
    with torch.no_grad():
        return captioner.encode(torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask))


def sample(captioner, encoding, clip_index=GROUPS, *, temperature=1.0, seed=None, **truncation):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    settings = {"temperature": temperature, "max_new_tokens": MAX_NEW_TOKENS, "generator": generator}
    return sample_captions(captioner, encoding, clip_index, **settings, **truncation)


def written(sampled):
    return [row[mask].tolist() for row, mask in zip(sampled.tokens, sampled.action_mask, strict=True)]


def shake(captioner):
    """Move what is tuned, as training does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in captioner.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("mapper", Mapper)
@pytest.mark.parametrize("kind", KINDS)
def test_sampled_log_probs_are_the_teacher_forced_ones(build, make_clips, kind, mapper):
    captioner = build(kind, mapper=mapper, decoder=DecoderTuning.lora)
    shake(captioner)
    encoding = encoded(captioner, make_clips(*DURATIONS_S))
    lengths = set()
    for temperature, truncation in itertools.product((0.7, 1.0, 1.3), ({}, {"top_k": 4}, {"top_k": 6, "top_p": 0.8})):
        sampled = sample(captioner, encoding, temperature=temperature, seed=5, **truncation)
        lengths |= set(sampled.action_mask.sum(dim=1).tolist())
        with torch.no_grad():
            forced = score_as_drawn(captioner, encoding, GROUPS, sampled)
        torch.testing.assert_close(sampled.log_probs, forced.log_probs, **CLOSE)
        torch.testing.assert_close(sampled.values, forced.values, **CLOSE)
    assert min(lengths) <= 2, "an early end"
    assert len(lengths) > 3, "late ends, and none"


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_captions_are_those_of_the_language_model_itself(build, parts, make_clips, kind):
    captioner = build(kind, decoder=DecoderTuning.frozen)
    shake(captioner)
    encoding = encoded(captioner, make_clips(*DURATIONS_S))
    plain = AutoModelForCausalLM.from_pretrained(parts[kind])
    expected = plain.generate(
        inputs_embeds=encoding.states,
        attention_mask=torch.ones(encoding.states.shape[:2], dtype=torch.long),
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    found = written(sample(captioner, encoding, torch.arange(4)))
    assert [row[: len(ours)].tolist() for row, ours in zip(expected, found, strict=True)] == found
    assert len({token for row in found for token in row}) > 1


@pytest.mark.parametrize("freeze_encoder", [True, False])
@pytest.mark.parametrize("encoder", ["", "clap", "fused"])
def test_a_clip_is_captioned_and_scored_alike_whatever_else_is_in_the_batch(build, make_clips, encoder, freeze_encoder):
    captioner = build("opt", encoder, freeze_encoder=freeze_encoder, mapper=Mapper.transformer)
    clips = make_clips(*DURATIONS_S)
    together = sample(captioner, encoded(captioner, clips), torch.arange(4))
    for clip in range(4):
        alone = sample(captioner, encoded(captioner, clips[clip : clip + 1]), torch.tensor([0]))
        assert written(alone)[0] == written(together)[clip]
        length = alone.tokens.shape[1]
        torch.testing.assert_close(together.log_probs[clip, :length], alone.log_probs[0], **CLOSE)
        torch.testing.assert_close(together.values[clip, :length], alone.values[0], **CLOSE)


@pytest.mark.parametrize("encoder", ["clap", "fused"])
def test_a_frozen_clap_hears_a_clip_once_and_a_tuned_one_hears_the_same(build, make_clips, encoder):
    clips = make_clips(*DURATIONS_S)
    frozen, tuned = (build("gpt2", encoder, freeze_encoder=freeze) for freeze in (True, False))
    features = frozen.features(clips)
    assert features.frames.shape[2] == frozen.audio_tower.width
    frozen.audio_tower.forward = None  # never asked again
    found = frozen.encode(torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask))
    torch.testing.assert_close(found.states, encoded(tuned, clips).states, **CLOSE)


@pytest.mark.parametrize("encoder", ["clap", "fused"])
def test_a_clap_hears_what_the_library_hears_and_of_a_short_clip_the_first_pass(build, make_clips, encoder):
    tower = build("gpt2", encoder).audio_tower
    whole, half = make_clips(1.0, 0.5)
    inputs = tower.inputs([whole, half])
    with torch.no_grad():
        steps, mask = tower(torch.from_numpy(inputs.frames), torch.from_numpy(inputs.frame_mask))
        for row, clip in enumerate((whole, half)):
            heard = clap_input(tower._extractor, clip, is_fused=encoder == "fused")
            states = tower.model(heard.mels[None], is_longer=torch.tensor([[heard.is_longer]])).last_hidden_state
            torch.testing.assert_close(steps[row], states[0].mean(dim=1).T, **CLOSE)
    assert mask[0].all()
    assert mask[1].tolist() == [True] * (len(mask[1]) // 2) + [False] * (len(mask[1]) // 2)


def test_padding_of_the_audio_changes_nothing_for_a_tuned_clap(build, make_clips):
    captioner = build("gpt2", "clap", freeze_encoder=False)
    features = captioner.features(make_clips(*DURATIONS_S))
    more = PolicyFeatures(
        np.pad(features.frames, ((0, 0), (0, 50), (0, 0)), constant_values=7.0),
        np.pad(features.frame_mask, ((0, 0), (0, 50))),
    )
    one, other = (
        captioner.encode(torch.from_numpy(some.frames), torch.from_numpy(some.frame_mask)).states
        for some in (features, more)
    )
    assert torch.equal(one, other)


def trainable(captioner):
    """Which parts learn."""
    return {name.partition(".")[0] for name, parameter in captioner.named_parameters() if parameter.requires_grad}


MAPPING = {"segments_to_prefix", "clip_to_prefix", "prefix_transformer", "value_head"}


@pytest.mark.parametrize("freeze_encoder", [True, False])
@pytest.mark.parametrize("decoder", DecoderTuning)
def test_what_is_tuned_is_what_the_settings_say(build, make_clips, decoder, freeze_encoder):
    captioner = build("llama", "clap", decoder=decoder, freeze_encoder=freeze_encoder, mapper=Mapper.transformer)
    own = set() if decoder is DecoderTuning.frozen else {"language_model"}
    assert trainable(captioner) == MAPPING | own | (set() if freeze_encoder else {"audio_tower"})
    in_model = {name for name, one in captioner.language_model.named_parameters() if one.requires_grad}
    assert all("lora_" in name for name in in_model) is (decoder is not DecoderTuning.full)
    tokens, mask = captioner.tokenize(["a dog barks", "rain"])
    features = captioner.features(make_clips(1.0))
    encoding = captioner.encode(torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask))
    output = captioner.log_probs(encoding, torch.tensor([0, 0]), tokens, mask, temperature=1.0)
    (output.log_probs.sum() + output.values.sum()).backward()
    learned = {name.partition(".")[0] for name, one in captioner.named_parameters() if one.grad is not None}
    assert learned == trainable(captioner)


def test_a_frozen_language_model_and_audio_tower_have_no_dropout_in_training(build):
    captioner = build("gpt2", "clap", decoder=DecoderTuning.frozen).train()
    assert captioner.prefix_dropout.training
    assert not captioner.language_model.training
    assert not captioner.audio_tower.training
    assert build("gpt2").train().language_model.training


@pytest.mark.parametrize("encoder", ["", "clap"])
@pytest.mark.parametrize("mapper", Mapper)
@pytest.mark.parametrize("decoder", DecoderTuning)
def test_saved_and_loaded_it_says_the_same(build, make_clips, tmp_path, decoder, mapper, encoder):
    captioner, clips = build("opt", encoder, decoder=decoder, mapper=mapper), make_clips(*DURATIONS_S)
    shake(captioner)
    captioner.save(tmp_path / "saved")
    loaded = load_captioner(tmp_path / "saved")
    assert loaded.parts == captioner.parts
    assert trainable(loaded) == trainable(captioner)
    one, other = (sample(each, encoded(each, clips), seed=3) for each in (captioner, loaded))
    assert torch.equal(one.tokens, other.tokens)
    torch.testing.assert_close(one.log_probs, other.log_probs, **CLOSE)
    torch.testing.assert_close(one.values, other.values, **CLOSE)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_tuned_parts_load_without_rlcap(build, make_clips, tmp_path, kind):
    captioner, clips = build(kind, "clap", decoder=DecoderTuning.lora, freeze_encoder=False), make_clips(1.0)
    shake(captioner)
    captioner.save(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "language_model").eval()
    tokens = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "language_model")("a dog barks").input_ids])
    heard = clap_input(captioner.audio_tower._extractor, clips[0], is_fused=False).mels[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens).logits, captioner.language_model(tokens).logits, **CLOSE)
        torch.testing.assert_close(
            ClapAudioModel.from_pretrained(tmp_path / "clap").eval()(heard).pooler_output,
            captioner.audio_tower.model(heard).pooler_output,
            **CLOSE,
        )


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft's own
def test_adapters_alone_are_read_by_peft_and_find_their_base_where_they_are_copied(build, make_clips, tmp_path):
    clips = make_clips(*DURATIONS_S)
    build("llama", decoder=DecoderTuning.lora, adapters_alone=True).save(tmp_path / "run/captioners/baseline")
    tuned = load_captioner(tmp_path / "run/captioners/baseline")
    shake(tuned)
    tuned.save(tmp_path / "run/checkpoints/update-1/captioner")
    assert not list((tmp_path / "run/checkpoints").rglob("model.safetensors"))
    baseline, kept = tmp_path / "elsewhere/baseline", tmp_path / "elsewhere/captioners/tuned"
    baseline.parent.mkdir()
    (tmp_path / "run/captioners/baseline").rename(baseline)
    copy_captioner(tmp_path / "run/checkpoints/update-1/captioner", kept, baseline)
    expected = sample(tuned, encoded(tuned, clips), seed=3)
    loaded = load_captioner(kept)
    found = sample(loaded, encoded(loaded, clips), seed=3)
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.log_probs, expected.log_probs, **CLOSE)

    plain = AutoModelForCausalLM.from_pretrained(baseline / "language_model")
    plain = PeftModel.from_pretrained(plain, kept / "language_model").eval()
    tokens = torch.tensor([TOKENIZER("a dog barks").input_ids])
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens).logits, tuned.language_model(tokens).logits, **CLOSE)


def test_a_captioner_to_begin_with_is_saved_whole_whatever_adapters_it_has(build, make_clips, tmp_path):
    clips = make_clips(*DURATIONS_S)
    config = CaptionerConfig(checkpoint="any", decoder=DecoderTuning.lora, adapters_alone=True)
    build("gpt2", decoder=DecoderTuning.lora, adapters_alone=True).save(tmp_path / "first")
    taught = adopt_captioner(tmp_path / "first", config, to_teach=True)
    shake(taught)
    taught.save(tmp_path / "taught")
    assert (tmp_path / "taught/language_model/model.safetensors").exists()
    baseline = load_captioner(tmp_path / "taught")
    one, other = (sample(each, encoded(each, clips), seed=3) for each in (taught, baseline))
    torch.testing.assert_close(one.log_probs, other.log_probs, **CLOSE)
    reference = baseline.frozen_reference()
    shake(baseline)
    again = sample(reference, encoded(reference, clips), seed=3)
    torch.testing.assert_close(again.log_probs, other.log_probs, **CLOSE)


def test_a_new_language_model_can_hear_with_a_clap(parts, make_clips):
    config = CaptionerConfig(audio_encoder=parts["clap"], width=16, num_layers=1, num_heads=2, prefix_length=4)
    captioner = build_prefix_captioner(config, TOKENIZER, encoder_channels=(4, 4, 8, 8), dropout=0.1).eval()
    assert encoded(captioner, make_clips(1.0, 0.2)).states.shape == (2, 4, 16)


def test_parts_that_cannot_be_used_are_named_with_their_setting(parts, tmp_path):
    def refusal(**settings):
        with pytest.raises(CheckpointError) as refused:
            check_parts(CaptionerConfig(**settings))
        return str(refused.value)

    nowhere = str(tmp_path / "nowhere")
    assert refusal(language_model=nowhere).startswith(f"captioner.language_model={nowhere} cannot be used: ")
    assert refusal(audio_encoder=nowhere).startswith(f"captioner.audio_encoder={nowhere} cannot be used: ")
    assert "a clap is no causal language model" in refusal(language_model=parts["clap"])
    assert "a ClapModel of transformers is expected, got a gpt2" in refusal(audio_encoder=parts["gpt2"])
    endless = save_language_model("gpt2", tmp_path / "endless")
    settings = json.loads((endless / "tokenizer_config.json").read_text())
    (endless / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    assert "no token that ends a caption" in refusal(language_model=str(endless))


def test_a_language_model_that_does_not_fit_is_refused(tmp_path, build, parts):
    wordy = save_language_model("gpt2", tmp_path / "wordy")
    build_word_tokenizer([*WORDS, "cat", "meows"]).save_pretrained(wordy)
    parts["wordy"] = str(wordy)
    with pytest.raises(CheckpointError, match=r"captioner\.language_model=.*wordy has vectors for \d+ tokens"):
        build("wordy")


def test_scores_that_come_out_otherwise_than_by_the_model_itself_are_refused(tmp_path, build, parts, monkeypatch):
    monkeypatch.setattr("rlcap.captioners.prefix.vocabulary_scores", lambda model, hidden: model.lm_head(hidden) / 2)
    with pytest.raises(CheckpointError, match="the scores of a llama come out wrong here"):
        build("llama")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"checkpoint": "x", "language_model": "y"}, "language_model must be empty where checkpoint names"),
        ({"checkpoint": "x", "audio_encoder": "y"}, "audio_encoder must be empty where checkpoint names"),
        ({"decoder": DecoderTuning.lora}, "decoder must be full where the language model is a new one, got lora"),
        ({"mapper_layers": 0}, "mapper_layers must be above 0"),
    ],
)
def test_settings_that_do_not_go_together_are_faults(settings, fault):
    assert any(found.startswith(fault) for found in CaptionerConfig(**settings).faults())


def test_scaled_and_capped_scores_are_computed_as_by_the_model(tmp_path, build, parts):
    for kind in ("granite", "cohere", "gemma2"):
        parts[kind] = str(save_language_model(kind, tmp_path / kind))
        captioner = build(kind)
        tokens = torch.tensor([[3, 4, 5]])
        with torch.no_grad():
            hidden = captioner.language_model.base_model(tokens).last_hidden_state
            torch.testing.assert_close(captioner.logits(hidden), captioner.language_model(tokens).logits, **CLOSE)
