"""Sizes from configs and the headers of weights, and those given in numbers."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from rlcap.config.captioner import DecoderTuning
from rlcap.errors import CheckpointError, ConfigError, DataError
from rlcap.planning.model_size import CaptionerSize, declared_size, read_size
from rlcap.planning.throughput import expected_throughput

GIVEN = {"parameters": 7e9, "layers": 32, "width": 4096, "kv_width": None, "vocabulary": 1000, "parameter_bytes": 2}


def audio_llm(directory, **text_config):
    config = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 4, "vocab_size": 50, **text_config}
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen2_audio", "text_config": config}))
    save_file({"one": np.zeros((3, 5), np.float16), "two": np.zeros(7, np.float16)}, directory / "a.safetensors")
    save_file({"three": np.zeros(2, np.float32)}, directory / "b.safetensors")


def test_a_directory_tells_its_size_without_being_loaded(tmp_path):
    audio_llm(tmp_path, num_key_value_heads=1)
    assert read_size(tmp_path) == CaptionerSize(
        24, layers=2, width=8, kv_width=2, vocabulary=50, parameter_bytes=2, is_float16=True
    )


def test_heads_that_are_not_grouped_have_keys_as_wide_as_the_decoder(tmp_path):
    audio_llm(tmp_path)
    assert read_size(tmp_path).kv_width == 8


def test_a_captioner_of_ours_tells_its_size(tmp_path, make_captioner):
    captioner = make_captioner(width=16, num_layers=2)
    captioner.save(tmp_path)
    found = read_size(tmp_path)
    assert (found.layers, found.width, found.kv_width) == (2, 16, 16)
    assert found.vocabulary == len(captioner.tokenizer)
    # a few numbers more than parameters: the encoder's statistics are stored as well
    assert found.parameters == pytest.approx(sum(tensor.numel() for tensor in captioner.parameters()), rel=0.1)


def test_a_directory_that_does_not_tell_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(CheckpointError, match="does not say its num_hidden_layers: give --parameters"):
        read_size(tmp_path)
    audio_llm(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="damaged"):
        read_size(tmp_path)


def test_sizes_that_are_missing_are_named():
    assert declared_size(**GIVEN).kv_width == 4096
    with pytest.raises(ConfigError, match=r"captioner.checkpoint=DIRECTORY, or --layers, --vocabulary"):
        declared_size(**{**GIVEN, "layers": None, "vocabulary": 0})


def test_adapters_are_counted_by_their_ends():
    size = declared_size(**GIVEN)
    assert size.trainable(DecoderTuning.full, 8) == 7_000_000_000
    assert size.trainable(DecoderTuning.lora, 8) == 32 * 8 * (4 * 2 * 4096 + 3 * 5 * 4096)


def test_throughput_is_that_of_the_nearest_number_of_actors_scaled(tmp_path):
    file = tmp_path / "bench.json"
    rates = [{"num_actors": 4, "captions_per_s": 100.0}, {"num_actors": 16, "captions_per_s": 320.0}]
    file.write_text(json.dumps({"rates": rates}))
    assert expected_throughput(file, 16).captions_per_s == 320.0
    scaled = expected_throughput(file, 20)
    assert scaled.captions_per_s == 400.0
    assert scaled.basis.startswith("at most")
    nothing = [{}, {"rates": 7}, {"rates": [7, {"num_actors": "4", "captions_per_s": 1.0}]}]
    nothing += [
        {"speeds": [{"num_actors": count, "captions_per_s": rate}]} for count, rate in ((0, 1), (1, None), (True, 1))
    ]
    for figures in nothing:
        file.write_text(json.dumps(figures))
        with pytest.raises(DataError, match="holds no captions per second"):
            expected_throughput(file, 16)
