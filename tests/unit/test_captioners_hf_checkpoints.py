"""Checkpoints as people have them, by every loader that goes through transformers."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_parts import TOKENIZER, save_clap, save_language_model

from reward_server.hf_clap import HfClap
from rlcap.captioners.audio_encoders import ClapEncoder
from rlcap.captioners.loading import load_captioner
from rlcap.captioners.prefix_parts import build_around_language_model, build_prefix_captioner
from rlcap.config.captioner import CaptionerConfig
from rlcap.errors import CheckpointError

WEIGHTS, CONFIG = "model.safetensors", "config.json"
SMALL = {"prefix_length": 4, "width": 16, "num_layers": 1, "num_heads": 2}
MAKING = {"encoder_channels": (4, 4, 8, 8), "dropout": 0.0}


def around_language_model(directory):
    config = CaptionerConfig(language_model=str(directory), **SMALL)
    return build_around_language_model(config, **MAKING).language_model


def behind_a_clap(directory):
    config = CaptionerConfig(audio_encoder=str(directory), **SMALL)
    return build_prefix_captioner(config, TOKENIZER, **MAKING).audio_tower


class Loader(NamedTuple):
    """A place where a checkpoint of transformers is read."""

    source: str
    load: Callable[[Path], torch.nn.Module]
    folder: str = "."
    """Where its weights lie."""
    reads: str = "tokenizer.json"
    """A file beside them that it needs."""


LOADERS = {
    "whisper": Loader("whisper", load_captioner),
    "speech encoder-decoder": Loader("speech_gpt2", load_captioner),
    "audio LLM": Loader("qwen2_audio", load_captioner),
    "prefix captioner": Loader("prefix", load_captioner, "language_model"),
    "audio tower of a prefix captioner": Loader("prefix", load_captioner, "clap", "preprocessor_config.json"),
    "language model": Loader("gpt2", around_language_model),
    "audio encoder": Loader("clap", ClapEncoder.of_clap, reads="preprocessor_config.json"),
    "audio encoder by its setting": Loader("clap", behind_a_clap, reads="preprocessor_config.json"),
    "CLAP of a reward": Loader("clap", HfClap.load),
}
EVERY_LOADER = [pytest.param(loader, id=name) for name, loader in LOADERS.items()]
every_loader = pytest.mark.parametrize("loader", EVERY_LOADER)


@pytest.fixture(scope="module")
def published(tiny_checkpoint, tmp_path_factory):
    """Return a function that gives the directory of a checkpoint of this kind: only read it."""
    root = tmp_path_factory.mktemp("published")
    clap = save_clap(root / "clap")
    TOKENIZER.save_pretrained(clap)
    made = {"clap": clap, "gpt2": save_language_model("gpt2", root / "gpt2"), "prefix": root / "prefix"}
    config = CaptionerConfig(language_model=str(made["gpt2"]), audio_encoder=str(clap), **SMALL)
    build_around_language_model(config, **MAKING).save(made["prefix"])
    return lambda source: made.get(source) or tiny_checkpoint(source)


@pytest.fixture(scope="module")
def loaded(published):
    """Return a function that gives the weights of a checkpoint as it was published."""
    return cache(lambda loader: loader.load(published(loader.source)).state_dict())


@pytest.fixture
def copied(published, tmp_path):
    """Return a function that copies what a loader reads, and gives the copy and the folder of its weights."""

    def copy(loader):
        directory = shutil.copytree(published(loader.source), tmp_path / "copy")
        return directory, directory / loader.folder

    return copy


def rewrite(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def split(folder):
    """Two shards and their index."""
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: weights[name] for name in held}, folder / file, metadata={"format": "pt"})
    places = {name: file for file, held in shards.items() for name in held}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / WEIGHTS).unlink()


def add_buffers(folder):
    """What older versions wrote beside weights."""

    def add(weights):
        layer = "transformer.h.0.attn"
        weights |= {f"{layer}.bias": torch.ones(1, 1, 8, 8).tril(), f"{layer}.masked_bias": torch.tensor(-1e4)}
        num_positions = len(weights.get("text_model.embeddings.position_embeddings.weight", ()))
        weights["text_model.embeddings.position_ids"] = torch.arange(num_positions)[None]
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.rand(4)

    rewrite(folder, add)


def add_critic(folder):
    rewrite(folder, lambda weights: weights.update({"v_head.summary.weight": torch.rand(1, 16)}))


def add_pickle(folder):
    (folder / "pytorch_model.bin").write_bytes(b"nobody reads this")


HARMLESS = [split, add_buffers, add_critic, add_pickle]


@every_loader
@pytest.mark.parametrize("change", HARMLESS, ids=lambda change: change.__name__)
def test_what_changes_no_weight_is_loaded_in_silence(loaded, copied, loader, change):
    directory, folder = copied(loader)
    change(folder)
    expected, found = loaded(loader), loader.load(directory).state_dict()
    assert expected.keys() == found.keys()
    learned_elsewhere = ("value_head", "segments_to_prefix", "clip_to_prefix")
    for name, weight in expected.items():
        assert torch.equal(weight, found[name]) or name.startswith(learned_elsewhere), name


def is_learned(name):
    return name.endswith(".weight") and "norm" not in name


def drop(folder):
    rewrite(folder, lambda weights: weights.pop(next(filter(is_learned, sorted(weights)))))


def add(folder):
    rewrite(folder, lambda weights: weights.update({"adapter.dense.weight": torch.rand(2, 2)}))


def resize(folder):
    def halve(weights):
        name = next(filter(is_learned, sorted(weights)))
        weights[name] = weights[name][:1].clone()

    rewrite(folder, halve)


def swap_config(folder):
    edit(folder / CONFIG, model_type="t5")


def cut(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def empty(folder):
    (folder / WEIGHTS).write_bytes(b"")


def lose(folder):
    (folder / WEIGHTS).unlink()


def lose_a_shard(folder):
    split(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def scramble_index(folder):
    split(folder)
    (folder / f"{WEIGHTS}.index.json").write_text("[1, 2")


def point_at_itself(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(WEIGHTS)


def make_folder_of_weights(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def name_a_pickle(folder):
    (folder / "adapter_model.bin").write_bytes(b"nobody reads this")
    edit(folder / CONFIG, transformers_weights="adapter_model.bin")


def bring_code(folder):
    edit(folder / CONFIG, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Model"})
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")


def garble(folder):
    (folder / CONFIG).write_text("{'model_type': ")


def garble_in_utf_16(folder):
    (folder / CONFIG).write_bytes("{}".encode("utf-16"))


def nest(folder):
    (folder / CONFIG).write_text("[" * 100_000)


def list_config(folder):
    (folder / CONFIG).write_text("[1]")


def mistype_config(folder):
    numbers = re.sub(r": [0-9.]+", ': "many"', (folder / CONFIG).read_text())
    (folder / CONFIG).write_text(numbers)


EVERYWHERE = [drop, add, resize, cut, lose, nest]
HERE_AND_THERE = [swap_config, empty, lose_a_shard, scramble_index, point_at_itself, make_folder_of_weights]
HERE_AND_THERE += [name_a_pickle, bring_code, garble, garble_in_utf_16, list_config, mistype_config]
DAMAGES = [
    pytest.param(*each.values, damage, id=f"{damage.__name__}-{each.id}")
    for damage in (*EVERYWHERE, *HERE_AND_THERE)
    for each in EVERY_LOADER
    if damage in EVERYWHERE or each.id in ("whisper", "language model", "CLAP of a reward")
]


@pytest.mark.parametrize(("loader", "damage"), DAMAGES)
def test_what_would_be_drawn_at_random_or_guessed_is_refused_in_a_sentence(copied, loader, damage):
    directory, folder = copied(loader)
    damage(folder)
    with pytest.raises(CheckpointError) as refused:
        loader.load(directory)
    sentence = str(refused.value)
    assert str(directory) in sentence
    assert "\n" not in sentence
    assert len(sentence) < 700
    assert not (folder / "ran").exists()


@every_loader
def test_damaged_files_beside_the_weights_are_told(copied, loader):
    directory, folder = copied(loader)
    for content in ("", "[1]", '{"model": {"type": "BPE"}, "feature_size": "many"}', "[" * 100_000):
        (folder / loader.reads).write_text(content)
        with pytest.raises(CheckpointError, match=str(directory)):
            loader.load(directory)


@every_loader
def test_what_is_no_directory_is_told(published, tmp_path, loader):
    file, loop = tmp_path / "file", tmp_path / "loop"
    file.write_text("{}")
    loop.symlink_to(loop)
    for place in (file, loop, tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError, match=str(place)):
            loader.load(place)


def pickle_weights(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")


def pickle_shards(folder):
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    for number, held in enumerate((names[::2], names[1::2]), start=1):
        torch.save({name: weights[name] for name in held}, folder / f"pytorch_model-0000{number}-of-00002.bin")
    (folder / "pytorch_model.bin.index.json").write_text("{}")


@every_loader
def test_a_pickle_is_refused_and_the_command_in_the_message_converts_it(published, copied, loader):
    for write in (pickle_weights, pickle_shards):
        directory, folder = copied(loader)
        write(folder)
        (folder / WEIGHTS).unlink()
        with pytest.raises(CheckpointError, match="a pickle") as refused:
            loader.load(directory)
        if loader.source == "whisper" and write is pickle_shards:  # it takes seconds
            subprocess.run(str(refused.value).partition("convert them once: ")[2], shell=True, check=True)
            expected, found = (load_file(each / WEIGHTS) for each in (published(loader.source), folder))
            assert expected.keys() == found.keys()
            assert all(torch.equal(expected[name], found[name]) for name in expected)
            loader.load(directory)
        shutil.rmtree(directory)
