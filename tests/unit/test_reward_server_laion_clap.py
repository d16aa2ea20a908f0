"""CLAPs in laion_clap's files: HTSAT-tiny at its real size over a small RoBERTa, with random weights."""

import functools
import importlib.util
import json
import pickle
import socket
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from reward_server import laion_parts
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


def build_reference(library, *, fused):
    """The library's model, its weights moved off their initial values so that each of them counts."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        module = library.CLAP_Module(enable_fusion=fused, device="cpu")
        for name, value in module.model.state_dict().items():
            if value.is_floating_point() and "extractor" not in name:
                value.add_(0.05 * torch.rand(value.shape))
        for layer in (0, 2):
            torch.nn.init.orthogonal_(module.model.audio_projection[layer].weight)
            torch.nn.init.orthogonal_(module.model.text_projection[layer].weight)
    return module.eval()


def write_checkpoint(module, folder):
    """As the library's training writes it, with its numpy learning rate and the position_ids of older transformers."""
    weights = {f"module.{name}": value for name, value in module.model.state_dict().items()}
    weights["module.text_branch.embeddings.position_ids"] = torch.arange(90)[None]
    optimizer = {"param_groups": [{"lr": np.float64(1e-4), "params": [0]}]}
    torch.save({"epoch": 1, "name": "run", "state_dict": weights, "optimizer": optimizer}, folder / "clap.pt")
    make_tokenizer().save_pretrained(folder / "tokenizer")
    return folder / "clap.pt"


class Case(NamedTuple):
    reference: torch.nn.Module
    path: Path
    tokenizer: Path
    clap: LaionClap


@pytest.fixture(scope="module")
def cases(library, tmp_path_factory):
    built = {}
    for name in ("plain", "fused"):
        reference = build_reference(library, fused=name == "fused")
        path = write_checkpoint(reference, tmp_path_factory.mktemp(name))
        tokenizer = path.parent / "tokenizer"
        built[name] = Case(reference, path, tokenizer, LaionClap.from_checkpoint(path, tokenizer))
    return built


@pytest.fixture(params=["plain", "fused"])
def case(request, cases):
    return cases[request.param]


@pytest.fixture
def plain(cases):
    return cases["plain"]


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
def test_clips_up_to_ten_seconds_are_heard_as_by_the_library(case, duration_s, sample_rate_hz):
    clip = noise(duration_s, sample_rate_hz)
    expected = by_the_library(case.reference, resample(clip.waveform, sample_rate_hz, 48_000))
    np.testing.assert_allclose(case.clap.embed_clips([clip]), expected, atol=1e-4)


def test_captions_are_read_as_by_the_library(case):
    expected = case.reference.get_text_embedding(CAPTIONS)
    np.testing.assert_allclose(case.clap.embed_captions(CAPTIONS).detach(), expected, atol=1e-4)
    assert np.linalg.norm(expected[0] - expected[1]) > 0.01


def test_of_longer_clips_the_crops_are_in_the_middle(case, monkeypatch):
    import torchvision

    clip = noise(12)
    centre = clip.waveform[48_000 : 11 * 48_000]
    monkeypatch.setattr(np.random, "choice", lambda third: third[len(third) // 2])
    # Up to torchvision 0.16, which the released weights were trained with, tensors were shrunk without smoothing.
    resize = functools.partial(torchvision.transforms.Resize, antialias=False)
    monkeypatch.setattr(torchvision.transforms, "Resize", resize)
    expected = by_the_library(case.reference, clip.waveform if case.reference.enable_fusion else centre)
    heard = case.clap.embed_clips([clip])
    np.testing.assert_allclose(heard, expected, atol=1e-4)
    assert np.linalg.norm(heard - case.clap.embed_clips([noise(10)])) > 0.01


def test_a_clip_is_embedded_alike_each_time_and_in_any_company(case):
    clips = [noise(1, seed=1), noise(10.005, seed=2)]
    together = case.clap.embed_clips(clips)
    np.random.seed(7)
    assert np.array_equal(together, np.concatenate([case.clap.embed_clips([clip]) for clip in clips]))
    assert np.linalg.norm(together[0] - together[1]) > 0.01


def test_a_saved_clap_is_the_same_one_and_needs_no_checkpoint(cases, tmp_path):
    clap = cases["fused"].clap
    clap.save(tmp_path)
    loaded = load_clap(tmp_path)
    assert isinstance(loaded, LaionClap)
    assert isinstance(loaded, Clap)
    assert loaded.fingerprint == clap.fingerprint
    assert np.array_equal(loaded.embed_clips([noise(1)]), clap.embed_clips([noise(1)]))
    assert torch.equal(loaded.embed_captions(CAPTIONS), clap.embed_captions(CAPTIONS))
    assert json.loads((tmp_path / "config.json").read_text())["backend"] == "laion_clap"


def test_fingerprints_tell_weights_and_towers_apart(cases):
    clap = cases["fused"].clap
    before = clap.fingerprint, clap.encoder_fingerprint
    weights = clap.towers.text_projection[0].bias
    with torch.no_grad():
        weights[0] += 1
        changed = clap.fingerprint, clap.encoder_fingerprint
        weights[0] -= 1
    assert changed[0] != before[0]
    assert changed[1] == before[1] != cases["plain"].clap.encoder_fingerprint


def test_the_shape_is_read_off_the_weights(case):
    shape = LaionShape("HTSAT-tiny", case.reference.enable_fusion, 512, 9, 90, 768, 2, 32)
    assert LaionShape.of(case.reference.model.state_dict()) == shape == case.clap.towers.shape


def test_the_settings_name_the_file_and_its_tokenizer(monkeypatch):
    config = RunConfig(reward=RewardConfig(clap_checkpoint="clap.pt"))
    assert any(fault.startswith("clap_tokenizer must name") for fault in config.reward.faults())
    config.reward.clap_tokenizer = "tokenizer"
    assert not list(config.reward.faults())
    monkeypatch.setattr(LaionClap, "from_checkpoint", lambda *given: given)
    assert Stages(config).given_clap == (Path("clap.pt"), "tokenizer")


def forget_the_library(monkeypatch):
    for name in list(sys.modules):
        if name.startswith(("laion_clap.", "reward_server.laion_parts")) or name == "laion_clap":
            monkeypatch.delitem(sys.modules, name)


def test_it_travels_to_processes_that_have_not_imported_the_library(plain, monkeypatch):
    sent = pickle.dumps(plain.clap)
    forget_the_library(monkeypatch)
    assert pickle.loads(sent).fingerprint == plain.clap.fingerprint
    assert "laion_clap" not in sys.modules


def test_reading_a_file_asks_no_network_and_moves_nothing_global(plain, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("the network was asked"))
    forget_the_library(monkeypatch)
    paths, state = list(sys.path), torch.get_rng_state()
    LaionClap.from_checkpoint(plain.path, plain.tokenizer)
    assert sys.path == paths
    assert "laion_clap" not in sys.modules
    assert torch.equal(torch.get_rng_state(), state)


class Payload:
    def __reduce__(self):
        return (print, ("code of the file was run",))


FOREIGN = {
    "is no readable checkpoint of laion_clap": {"state_dict": {}, "more": Payload()},
    "holds no state_dict of tensors": [1],
    "holds no HTSAT beside a RoBERTa": {"state_dict": {"module.layer.weight": torch.zeros(3)}},
}


@pytest.mark.parametrize("sentence", FOREIGN)
def test_foreign_files_are_refused_and_never_run(sentence, tmp_path, capsys):
    torch.save(FOREIGN[sentence], tmp_path / "clap.pt")
    with pytest.raises(CheckpointError, match=sentence):
        LaionClap.from_checkpoint(tmp_path / "clap.pt", tmp_path)
    assert "code of the file" not in capsys.readouterr().out


def test_missing_and_damaged_files_are_refused(plain, tmp_path):
    cut, text = tmp_path / "cut.pt", tmp_path / "text.pt"
    cut.write_bytes(plain.path.read_bytes()[:-5000])
    text.write_bytes(b"not a checkpoint")
    for path in (cut, text, tmp_path / "none.pt"):
        with pytest.raises(CheckpointError, match="is no readable checkpoint of laion_clap"):
            LaionClap.from_checkpoint(path, plain.tokenizer)


def test_missing_weights_are_named(plain, tmp_path):
    weights = plain.reference.model.state_dict()
    del weights["audio_projection.0.bias"]
    torch.save(weights, tmp_path / "clap.pt")
    with pytest.raises(CheckpointError, match=r"1 differences\): audio_projection\.0\.bias is missing"):
        LaionClap.from_checkpoint(tmp_path / "clap.pt", plain.tokenizer)


def test_a_tokenizer_that_is_missing_or_of_another_size_is_explained(plain, tmp_path):
    with pytest.raises(CheckpointError, match="none does not exist"):
        LaionClap.from_checkpoint(plain.path, tmp_path / "none")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["thunder"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"expects 9 tokens, but the tokenizer in .* has 10"):
        LaionClap.from_checkpoint(plain.path, tmp_path)


def test_without_the_package_its_extra_is_named(plain, monkeypatch):
    forget_the_library(monkeypatch)
    monkeypatch.setattr(laion_parts, "__path__", [])
    monkeypatch.setitem(sys.modules, laion_parts.__name__, laion_parts)
    with pytest.raises(CheckpointError, match=r"pip install rlcap\[laion\]"):
        LaionClap.from_checkpoint(plain.path, plain.tokenizer)
