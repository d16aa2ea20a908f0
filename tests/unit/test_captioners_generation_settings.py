"""Settings of generation that published checkpoints come with, and what a tuned captioner says in their place."""

import json
import shutil

import pytest
from tiny_models import AUDIO_LLMS
from transformers import GenerationConfig

from rlcap.captioners.generation_settings import eos_token_ids, generate_as_tuned
from rlcap.captioners.loading import adopt_captioner, load_captioner
from rlcap.config.captioner import CaptionerConfig
from rlcap.errors import CheckpointError

PUBLISHED = {
    "a temperature without sampling": {"do_sample": False, "temperature": 0.7, "top_p": 0.9, "top_k": 5},
    "beams that are not searched": {"num_beams": 1, "early_stopping": True, "length_penalty": 2.0},
    "several captions of beams": {"num_beams": 5, "num_return_sequences": 3},
    "scores that are not returned": {"output_scores": True},
    "a cache that is off": {"use_cache": False, "cache_implementation": "static"},
    "padding below zero": {"pad_token_id": -1},
    "sampling of its own": {"do_sample": True, "temperature": 0.6, "top_k": 20, "min_p": 0.1},
}
TOKENS = {"eos_token_ids": (2, 3), "pad_token_id": 1}


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("architecture", ["whisper", "qwen2_audio"])
def test_whatever_generation_settings_a_captioner_comes_with_it_can_be_saved(
    tiny_checkpoint, tmp_path, architecture, file
):
    for name, settings in PUBLISHED.items():
        directory = shutil.copytree(tiny_checkpoint(architecture), tmp_path / name)
        if file == "config.json":  # where they stood in older checkpoints
            (directory / "generation_config.json").unlink()
        path = directory / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        captioner = adopt_captioner(directory, CaptionerConfig())
        captioner.save(tmp_path / "saved")
        found = GenerationConfig.from_pretrained(tmp_path / "saved")
        found.validate(strict=True)
        assert found.num_beams is None
        assert found.pad_token_id == captioner.pad_token_id
        assert load_captioner(tmp_path / "saved").eos_token_ids == captioner.eos_token_ids


@pytest.mark.parametrize("settings", PUBLISHED.values(), ids=PUBLISHED)
def test_a_tuned_captioner_is_sampled_from_all_its_scores_or_greedily(settings):
    config = GenerationConfig(**settings)
    generate_as_tuned(config, **TOKENS, forbidden_tokens=(4,))
    config.validate(strict=True)
    drawn = (1.0, 0, 1.0) if settings.get("do_sample") else (None, None, None)
    assert (config.temperature, config.top_k, config.top_p) == drawn
    assert (config.eos_token_id, config.suppress_tokens, config.min_p) == ([2, 3], [4], None)


def test_what_ends_a_caption_is_looked_for_in_tokenizer_and_settings():
    assert eos_token_ids(GenerationConfig(eos_token_id=[0, 2]), 2) == (2, 0)
    assert eos_token_ids(GenerationConfig(eos_token_id=0), None) == (0,)
    with pytest.raises(CheckpointError, match="give it an eos_token"):
        eos_token_ids(GenerationConfig(), None)


@pytest.mark.parametrize("architecture", AUDIO_LLMS)
def test_a_missing_chat_template_is_told_or_the_librarys_own(tiny_checkpoint, tmp_path, architecture):
    directory = shutil.copytree(tiny_checkpoint(architecture), tmp_path / "copy")
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    if architecture == "qwen2_audio":
        assert load_captioner(directory)
        return
    with pytest.raises(CheckpointError, match="chat template of this audioflamingo3 cannot be filled"):
        load_captioner(directory)
