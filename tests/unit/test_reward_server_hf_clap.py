"""CLAPs in Hugging Face layout: the real architecture, at its smallest, with random weights."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

from reward_server.clap import Clap
from reward_server.clap_loading import load_clap
from reward_server.fitting import fit_preferences
from reward_server.heads import CosineHead
from reward_server.hf_clap import HfClap
from reward_server.lora import AdaptedLinear, add_adapters, merge_adapters
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from rlcap.audio.clap_input import clap_input
from rlcap.audio.features import LogMelConfig
from rlcap.audio.resampling import resample
from rlcap.config.reward import ClapConfig as SmallClapConfig
from rlcap.config.reward import FinetuneTowers, HeadConfig, RewardConfig
from rlcap.errors import CheckpointError
from rlcap.preferences.pairs import PreferencePair
from rlcap.types import Clip

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "dog", "barks", "rain", "falls"]
CAPTIONS = ["a dog barks", "rain falls", "a dog"]


def make_clap(*, fused=False, seed=0):
    torch.manual_seed(seed)
    text = {"vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 16, "max_position_embeddings": 20, "pad_token_id": 1}
    audio = {"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16}
    audio |= {"enable_fusion": fused, "fusion_type": "aff_2d" if fused else None, "enable_patch_layer_norm": True}
    audio |= {"num_hidden_layers": 2, "aff_block_r": 2}
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=12)).eval()
    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    extractor = ClapFeatureExtractor(truncation="fusion" if fused else "rand_trunc")
    return HfClap(model, extractor, tokenizer).eval()


def noise(duration_s, sample_rate_hz=48_000, seed=0):
    rng = np.random.default_rng(seed)
    waveform = 0.1 * rng.standard_normal(round(duration_s * sample_rate_hz)).astype(np.float32)
    return Clip(f"{seed}", waveform, sample_rate_hz)


@torch.inference_mode()
def by_the_library(clap, waveform):
    inputs = clap._extractor(waveform, sampling_rate=48_000, return_tensors="pt")
    return clap.model.get_audio_features(**inputs).pooler_output.numpy()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("duration_s", "sample_rate_hz"), [(0.5, 48_000), (10, 48_000), (3, 16_000)])
def test_clips_up_to_ten_seconds_are_heard_as_by_the_library(fused, duration_s, sample_rate_hz):
    clap, clip = make_clap(fused=fused), noise(duration_s, sample_rate_hz)
    expected = by_the_library(clap, resample(clip.waveform, sample_rate_hz, 48_000))
    np.testing.assert_allclose(clap.embed_clips([clip]), expected, atol=1e-4)


def test_captions_are_read_as_by_the_library():
    clap = make_clap()
    tokens = clap.tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    expected = clap.model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
    torch.testing.assert_close(clap.embed_captions(CAPTIONS), expected, atol=1e-4, rtol=0)
    assert clap.embed_captions(["dog " * 100]).isfinite().all()


def test_of_longer_clips_a_model_without_fusion_hears_the_centre():
    clap, clip = make_clap(), noise(12)
    centre = clip.waveform[48_000 : 11 * 48_000]
    np.testing.assert_allclose(clap.embed_clips([clip]), by_the_library(clap, centre), atol=1e-4)


def test_a_fused_model_hears_what_the_library_might_have_drawn(monkeypatch):
    clap, clip = make_clap(fused=True), noise(14)
    monkeypatch.setattr(np.random, "choice", lambda third: third[len(third) // 2])
    expected = clap._extractor(clip.waveform, sampling_rate=48_000)["input_features"][0]
    heard = clap_input(clap._extractor, clip, is_fused=True)
    assert heard.is_longer
    np.testing.assert_allclose(heard.mels, expected, atol=1e-4)
    np.testing.assert_allclose(clap.embed_clips([clip]), by_the_library(clap, clip.waveform), atol=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_a_clip_is_embedded_alike_each_time_and_in_any_company(fused):
    clap, clips = make_clap(fused=fused), [noise(1, seed=1), noise(11, seed=2), noise(10.005, seed=3)]
    together = clap.embed_clips(clips)
    np.random.seed(7)
    apart = np.concatenate([clap.embed_clips([clip]) for clip in clips])
    assert np.array_equal(together, apart)


@pytest.mark.parametrize("fused", [False, True])
def test_a_saved_reward_model_over_it_is_loaded_with_its_version(fused, tmp_path):
    clap, clips = make_clap(fused=fused), [noise(1)]
    reward = ClapReward(clap, CosineHead())
    index = np.zeros(3, dtype=np.int64)
    expected = reward.score(reward.embed_audio(clips), CAPTIONS, index)
    reward.save(tmp_path)
    loaded = ClapReward.load(tmp_path)
    assert loaded.version == reward.version == ClapReward(clap, CosineHead()).version
    assert np.array_equal(loaded.score(loaded.embed_audio(clips), CAPTIONS, index), expected)
    assert (tmp_path / "clap" / "model.safetensors").exists()


def test_fingerprints_tell_weights_and_towers_apart():
    clap, other, third = make_clap(), make_clap(seed=1), make_clap()
    with torch.no_grad():
        third.model.text_projection.linear1.weight[0, 0] += 1
    assert len({each.fingerprint for each in (clap, other, third)}) == 3
    assert clap.encoder_fingerprint == third.encoder_fingerprint != other.encoder_fingerprint


def test_each_backend_is_a_clap_that_its_saved_name_brings_back(tmp_path):
    config = SmallClapConfig(embedding_dim=16, audio_channels=[4] * 4, num_segments=2, text_width=16, num_heads=2)
    for clap in (SmallClap.for_captions(config, CAPTIONS, LogMelConfig(), seed=0), make_clap()):
        assert isinstance(clap, Clap)
        clap.save(tmp_path / clap.backend)
        loaded = load_clap(tmp_path / clap.backend)
        assert type(loaded) is type(clap)
        assert loaded.fingerprint == clap.fingerprint


def test_a_head_is_fitted_on_its_embeddings_and_towers_stay():
    clap = make_clap()
    ids = [f"{number}" for number in range(40)]
    embeddings = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
    pairs = [PreferencePair(clip_id, CAPTIONS[0], CAPTIONS[1], (1,)) for clip_id in ids]
    config = HeadConfig(hidden_sizes=[8, 4], num_epochs=2)
    fitted = fit_preferences(clap, embeddings, ids, pairs, config, seed=0)
    assert fitted.clap.fingerprint == clap.fingerprint
    assert fitted.metrics.num_heldout_pairs > 0
    tuned = HeadConfig(finetune_towers=FinetuneTowers.all)
    with pytest.raises(ValueError, match="finetune_towers must be none"):
        fit_preferences(clap, embeddings, ids, pairs, tuned, seed=0)
    assert any("finetune_towers" in fault for fault in RewardConfig(clap_checkpoint="x", head=tuned).faults())


def test_adapters_are_fitted_in_its_text_tower_and_its_hearing_stays():
    clap, ids = make_clap(), [f"{number}" for number in range(40)]
    embeddings = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
    pairs = [PreferencePair(clip_id, CAPTIONS[0], CAPTIONS[1], (1,)) for clip_id in ids]
    config = HeadConfig(
        hidden_sizes=[8, 4], num_epochs=2, finetune_towers=FinetuneTowers.text_lora, tower_learning_rate=0.01
    )
    assert not any("finetune_towers" in fault for fault in RewardConfig(clap_checkpoint="x", head=config).faults())
    fitted = fit_preferences(clap, embeddings, ids, pairs, config, seed=0)
    assert fitted.clap.encoder_fingerprint == clap.encoder_fingerprint
    weights, tuned = clap.model.state_dict(), fitted.clap.model.state_dict()
    assert weights.keys() == tuned.keys()
    changed = {name for name, value in weights.items() if not torch.equal(value, tuned[name])}
    layer = "text_model.encoder.layer.0"
    names = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
    names += [f"{layer}.{part}.dense" for part in ("attention.output", "intermediate", "output")]
    assert changed == {f"{name}.weight" for name in [*names, "text_model.pooler.dense"]}


def test_adapters_change_nothing_at_first_and_merge_without_a_trace():
    clap = make_clap()
    before = clap.embed_captions(CAPTIONS)
    add_adapters(clap.text_module, rank=2, alpha=4.0, seed=0)
    assert torch.equal(clap.embed_captions(CAPTIONS), before)
    for part in clap.text_module.modules():
        if isinstance(part, AdaptedLinear):
            torch.nn.init.normal_(part.up, std=0.3)
    adapted = clap.embed_captions(CAPTIONS)
    merge_adapters(clap.text_module)
    torch.testing.assert_close(clap.embed_captions(CAPTIONS), adapted, rtol=0, atol=1e-5)
    assert not torch.allclose(adapted, before, atol=1e-3)


def test_what_is_no_readable_clap_is_explained(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        HfClap.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_clap(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"backend": "other"}))
    with pytest.raises(CheckpointError, match="backend 'other'; known here: small, transformers"):
        load_clap(tmp_path)


def test_weights_that_are_missing_are_never_drawn_at_random(tmp_path):
    from safetensors.torch import load_file, save_file

    make_clap().save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["text_projection.linear1.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks weights of its ClapModel: text_projection\.linear1\.weight"):
        HfClap.load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_towers_and_their_adapters_are_fitted_in_float32(tmp_path, dtype):
    clap = make_clap()
    clap.model.to(dtype)
    clap.save(tmp_path)
    loaded = HfClap.load(tmp_path)
    assert {one.dtype for one in loaded.parameters()} == {torch.float32}
    loaded.requires_grad_(False)
    add_adapters(loaded.text_module, 2, 16.0, seed=0)
    trained = {name: one for name, one in loaded.named_parameters() if one.requires_grad}
    before = {name: one.detach().clone() for name, one in trained.items()}
    optimizer = torch.optim.Adam(trained.values(), lr=1e-5)
    for _ in range(2):  # the change is zero at first, and so is the gradient of one half of it
        loaded.embed_captions(CAPTIONS)[:, 0].sum().backward()
        optimizer.step()
    assert {one.dtype for one in trained.values()} == {torch.float32}
    moved = sum(int((one != before[name]).sum()) for name, one in trained.items())
    assert moved > 0.99 * sum(one.numel() for one in trained.values())


def test_towers_with_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    clap = make_clap()
    with torch.no_grad():
        clap.model.text_projection.linear1.bias[0] = torch.nan
    clap.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"not finite, in text_projection\.linear1\.bias"):
        HfClap.load(tmp_path)
