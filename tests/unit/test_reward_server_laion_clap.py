"""CLAPs in laion_clap's files: HTSAT-tiny at its real size over a small RoBERTa, with random weights."""

import copy
import functools
import importlib.util
import json
import socket
import sys
import warnings

import numpy as np
import pytest
import torch
import torchvision
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from reward_server.clap import Clap
from reward_server.clap_loading import load_clap
from reward_server.laion_clap_backend import LaionClap
from reward_server.laion_towers import LaionShape
from rlcap.audio.resampling import resample
from rlcap.config.reward import RewardConfig
from rlcap.config.run import RunConfig
from rlcap.errors import CheckpointError
from rlcap.pipeline.stages import Stages
from rlcap.types import Clip

pytestmark = pytest.mark.skipif(importlib.util.find_spec("laion_clap") is None, reason="laion_clap is not installed")

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "dog", "barks", "rain", "falls"]
CAPTIONS = ["a dog barks", "rain falls", "a dog", "dog " * 100]


def make_tokenizer():
    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def make_roberta(*_):
    config = RobertaConfig(vocab_size=9, num_hidden_layers=2, intermediate_size=32, layer_norm_eps=1e-5)
    config.max_position_embeddings, config.type_vocab_size = 90, 1
    return RobertaModel(config)


@pytest.fixture(scope="module")
def library():
    """The library itself, with a small RoBERTa where it would download one."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(sys, "path", [*sys.path])
        for name in ("BertTokenizer", "BartTokenizer", "RobertaTokenizer"):
            patch.setattr(getattr(transformers, name), "from_pretrained", lambda *_: make_tokenizer())
        patch.setattr(RobertaModel, "from_pretrained", make_roberta)
        import laion_clap

        yield laion_clap


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "fused"])
def reference(request, library):
    """The library's model, its weights moved off their initial values so that each of them counts."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        module = library.CLAP_Module(enable_fusion=request.param, device="cpu")
        for name, value in module.model.state_dict().items():
            if value.is_floating_point() and "extractor" not in name:
                value.add_(0.05 * torch.rand(value.shape))
        for layer in (0, 2):
            torch.nn.init.orthogonal_(module.model.audio_projection[layer].weight)
            torch.nn.init.orthogonal_(module.model.text_projection[layer].weight)
    return module.eval()


def write_checkpoint(module, folder, **more):
    """As the library's training writes it, with its numpy learning rate and the position_ids of older transformers."""
    weights = {f"module.{name}": value for name, value in module.model.state_dict().items()}
    weights["module.text_branch.embeddings.position_ids"] = torch.arange(90)[None]
    optimizer = {"param_groups": [{"lr": np.float64(1e-4), "params": [0]}]}
    torch.save({"epoch": 1, "name": "run", "state_dict": weights, "optimizer": optimizer, **more}, folder / "clap.pt")
    make_tokenizer().save_pretrained(folder / "tokenizer")
    return folder / "clap.pt"


@pytest.fixture(scope="module")
def checkpoint(reference, tmp_path_factory):
    return write_checkpoint(reference, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def clap(checkpoint):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("the network was asked"))
        before = list(sys.path), torch.get_rng_state()
        clap = LaionClap.from_checkpoint(checkpoint, checkpoint.parent / "tokenizer")
    assert sys.path == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    return clap


def noise(duration_s, sample_rate_hz=48_000, seed=0):
    rng = np.random.default_rng(seed)
    length = round(duration_s * sample_rate_hz)
    loudness = np.interp(np.arange(length), [0, length], [0.02, 0.5])
    return Clip(f"{seed}", (loudness * rng.standard_normal(length)).astype(np.float32), sample_rate_hz)


@torch.inference_mode()
def by_the_library(reference, waveform):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return reference.get_audio_embedding_from_data([waveform])


@pytest.mark.parametrize(("duration_s", "sample_rate_hz"), [(0.7, 48_000), (10, 48_000), (3, 16_000)])
def test_clips_up_to_ten_seconds_are_heard_as_by_the_library(reference, clap, duration_s, sample_rate_hz):
    clip = noise(duration_s, sample_rate_hz)
    expected = by_the_library(reference, resample(clip.waveform, sample_rate_hz, 48_000))
    np.testing.assert_allclose(clap.embed_clips([clip]), expected, atol=1e-4)


def test_captions_are_read_as_by_the_library(reference, clap):
    expected = reference.get_text_embedding(CAPTIONS)
    np.testing.assert_allclose(clap.embed_captions(CAPTIONS), expected, atol=1e-4)
    assert np.linalg.norm(expected[0] - expected[1]) > 0.01


def test_of_longer_clips_the_crops_are_in_the_middle(reference, clap, monkeypatch):
    clip = noise(12)
    centre = clip.waveform[48_000 : 11 * 48_000]
    monkeypatch.setattr(np.random, "choice", lambda third: third[len(third) // 2])
    # Up to torchvision 0.16, which the released weights were trained with, tensors were shrunk without smoothing.
    resize = functools.partial(torchvision.transforms.Resize, antialias=False)
    monkeypatch.setattr(torchvision.transforms, "Resize", resize)
    expected = by_the_library(reference, clip.waveform if reference.enable_fusion else centre)
    heard = clap.embed_clips([clip])
    np.testing.assert_allclose(heard, expected, atol=1e-4)
    assert np.linalg.norm(heard - clap.embed_clips([noise(10)])) > 0.01


def test_a_clip_is_embedded_alike_each_time_and_in_any_company(clap):
    clips = [noise(1, seed=1), noise(11, seed=2), noise(10.005, seed=3)]
    together = clap.embed_clips(clips)
    np.random.seed(7)
    assert np.array_equal(together, np.concatenate([clap.embed_clips([clip]) for clip in clips]))
    assert np.linalg.norm(together[0] - together[1]) > 0.01


def test_a_saved_clap_is_the_same_one_and_needs_no_checkpoint(clap, tmp_path):
    clap.save(tmp_path)
    loaded = load_clap(tmp_path)
    assert isinstance(loaded, LaionClap)
    assert isinstance(loaded, Clap)
    assert loaded.fingerprint == clap.fingerprint
    assert loaded.encoder_fingerprint == clap.encoder_fingerprint
    assert np.array_equal(loaded.embed_clips([noise(1)]), clap.embed_clips([noise(1)]))
    assert torch.equal(loaded.embed_captions(CAPTIONS), clap.embed_captions(CAPTIONS))
    assert json.loads((tmp_path / "config.json").read_text())["backend"] == "laion_clap"


def test_fingerprints_tell_weights_and_towers_apart(clap):
    other = copy.deepcopy(clap)
    with torch.no_grad():
        other.towers.text_projection[0].weight[0, 0] += 1
    assert other.fingerprint != clap.fingerprint
    assert other.encoder_fingerprint == clap.encoder_fingerprint
    with torch.no_grad():
        other.towers.audio_projection[0].weight[0, 0] += 1
    assert other.encoder_fingerprint != clap.encoder_fingerprint


def test_the_shape_is_read_off_the_weights(clap, reference):
    shape = LaionShape.of(reference.model.state_dict())
    assert shape == clap.towers.shape
    assert shape == LaionShape("HTSAT-tiny", reference.enable_fusion, 512, 9, 90, 768, 2, 32)


def test_the_settings_name_the_file_and_its_tokenizer(checkpoint, clap):
    config = RunConfig(reward=RewardConfig(clap_checkpoint=str(checkpoint)))
    assert any(fault.startswith("clap_tokenizer must name") for fault in config.reward.faults())
    config.reward.clap_tokenizer = str(checkpoint.parent / "tokenizer")
    assert not list(config.reward.faults())
    assert Stages(config).given_clap.fingerprint == clap.fingerprint


class Payload:
    def __reduce__(self):
        return (print, ("code of the file was run",))


def test_what_is_no_readable_checkpoint_is_explained(tmp_path):
    path = tmp_path / "clap.pt"
    with pytest.raises(CheckpointError, match="is no readable checkpoint of laion_clap"):
        LaionClap.from_checkpoint(path, tmp_path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="is no readable checkpoint of laion_clap"):
        LaionClap.from_checkpoint(path, tmp_path)
    torch.save({"state_dict": {}, "more": Payload()}, path)
    with pytest.raises(CheckpointError, match="is no readable checkpoint of laion_clap"):
        LaionClap.from_checkpoint(path, tmp_path)
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="holds no state_dict of tensors"):
        LaionClap.from_checkpoint(path, tmp_path)
    torch.save({"state_dict": {"module.layer.weight": torch.zeros(3)}}, path)
    with pytest.raises(CheckpointError, match="holds no HTSAT beside a RoBERTa"):
        LaionClap.from_checkpoint(path, tmp_path)


def test_a_cut_file_and_missing_weights_are_explained(checkpoint, reference, tmp_path):
    tokenizer, cut, path = checkpoint.parent / "tokenizer", tmp_path / "cut.pt", tmp_path / "lacking.pt"
    cut.write_bytes(checkpoint.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="is no readable checkpoint of laion_clap"):
        LaionClap.from_checkpoint(cut, tokenizer)
    weights = reference.model.state_dict()
    del weights["audio_projection.0.bias"]
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match=r"1 differences\): audio_projection\.0\.bias is missing"):
        LaionClap.from_checkpoint(path, tokenizer)


def test_a_tokenizer_that_is_missing_or_of_another_size_is_explained(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="none holds no readable tokenizer"):
        LaionClap.from_checkpoint(checkpoint, tmp_path / "none")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["thunder"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"expects 9 tokens, but the tokenizer in .* has 10"):
        LaionClap.from_checkpoint(checkpoint, tmp_path)


def test_without_the_package_its_extra_is_named(checkpoint, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install rlcap\[laion\]"):
        LaionClap.from_checkpoint(checkpoint, checkpoint.parent / "tokenizer")
