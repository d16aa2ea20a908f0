import json

import numpy as np
import pytest
import torch

from reward_server.heads import CosineHead, MlpHead
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from reward_server.text_terms import TERMS, weighted_terms
from rlcap.audio.features import LogMelConfig
from rlcap.config.reward import ClapConfig, TextTermsConfig
from rlcap.errors import CheckpointError
from rlcap.protocols import RewardModel
from rlcap.types import Clip

CAPTIONS = ["a dog barks", "a cat meows", "a dog barks"]
INDEX = np.array([0, 0, 1])
CONFIG = TextTermsConfig()


def clap():
    config = ClapConfig(embedding_dim=16, audio_channels=[4, 4, 4, 4], num_segments=2, text_width=16, num_heads=2)
    return SmallClap.for_captions(config, CAPTIONS, LogMelConfig(), seed=0)


def head(seed=0):
    torch.manual_seed(seed)
    return MlpHead(16, [8, 4], dropout=0.5)


def clips():
    rng = np.random.default_rng(0)
    return [Clip(str(i), rng.standard_normal(8000).astype(np.float32) / 9, 16_000) for i in range(2)]


def scores(reward, captions=CAPTIONS, index=INDEX):
    return reward.score(reward.embed_audio(clips()), captions, index)


def test_a_reward_model_scores_each_caption_against_its_clip():
    reward = ClapReward(clap(), head())
    found = scores(reward)
    assert isinstance(reward, RewardModel)
    assert found.dtype == np.float32
    assert found.shape == (3,)
    assert found[0] != found[2]
    swapped = scores(reward, CAPTIONS[::-1], INDEX[::-1].copy())
    np.testing.assert_allclose(swapped[::-1], found, rtol=1e-5, atol=1e-6)


def test_dropout_is_off_and_the_same_input_gives_the_same_bits():
    reward = ClapReward(clap(), head().train())
    assert np.array_equal(scores(reward), scores(reward))


def test_no_captions_get_no_scores():
    assert scores(ClapReward(clap(), head()), [], np.zeros(0, dtype=np.int64)).shape == (0,)


def test_the_sigmoid_is_on_the_way_out_only():
    raw, squashed = scores(ClapReward(clap(), head())), scores(ClapReward(clap(), head(), sigmoid_output=True))
    np.testing.assert_allclose(squashed, 1 / (1 + np.exp(-raw)), rtol=1e-5)


def test_text_terms_are_added_by_weight():
    terms = TextTermsConfig(full_stop=0.5)
    plain, with_terms = scores(ClapReward(clap(), head())), scores(ClapReward(clap(), head(), terms))
    np.testing.assert_allclose(with_terms, plain - 0.5, rtol=1e-5)


@pytest.mark.parametrize("make_head", [head, CosineHead, lambda: MlpHead(16, [8], hears_audio=False)])
def test_what_was_saved_is_loaded_with_its_version(make_head, tmp_path):
    reward = ClapReward(clap(), make_head(), TextTermsConfig(length=0.25), sigmoid_output=True)
    reward.save(tmp_path)
    loaded = ClapReward.load(tmp_path)
    assert loaded.version == reward.version
    assert np.array_equal(scores(loaded), scores(reward))


def test_versions_change_with_anything_that_changes_a_score():
    other_clap = clap()
    with torch.no_grad():
        other_clap.text_tower.tokens.weight[0, 0] += 1e-3
    rewards = [
        ClapReward(clap(), head()),
        ClapReward(clap(), head(seed=1)),
        ClapReward(clap(), CosineHead()),
        ClapReward(other_clap, head()),
        ClapReward(clap(), head(), sigmoid_output=True),
        ClapReward(clap(), head(), TextTermsConfig(length=1.0)),
    ]
    assert len({reward.version for reward in rewards}) == len(rewards)
    assert ClapReward(clap(), head()).version == rewards[0].version
    assert rewards[0].encoder_fingerprint == rewards[1].encoder_fingerprint == rewards[3].encoder_fingerprint


def test_content_that_does_not_match_its_version_is_refused(tmp_path):
    ClapReward(clap(), head()).save(tmp_path / "a")
    ClapReward(clap(), head(seed=1)).save(tmp_path / "b")
    (tmp_path / "b" / "head.safetensors").replace(tmp_path / "a" / "head.safetensors")
    with pytest.raises(CheckpointError, match="is damaged: its content has version"):
        ClapReward.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("version", 7),
        ("sigmoid_output", "false"),
        ("sigmoid_output", 0),
        ("hidden_sizes", "8"),
        ("hidden_sizes", [8.5]),
        ("num_members", True),
        ("std_weight", "1"),
        ("std_weight", float("nan")),
        ("text_terms", [1]),
    ],
)
def test_settings_of_another_type_are_refused_and_never_coerced(tmp_path, setting, value):
    ClapReward(clap(), head()).save(tmp_path)
    path = tmp_path / "reward.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    with pytest.raises(CheckpointError, match="does not describe a reward model"):
        ClapReward.load(tmp_path)


def test_a_folder_without_a_reward_model_is_explained(tmp_path):
    with pytest.raises(CheckpointError, match="does not describe a reward model"):
        ClapReward.load(tmp_path)
    (tmp_path / "reward.json").write_text(json.dumps({"version": "1", "sigmoid_output": False}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="'head'"):
        ClapReward.load(tmp_path)


@pytest.mark.parametrize(
    ("term", "caption", "value"),
    [
        ("repetition", "a dog barks", 0),
        ("repetition", "a dog a dog a dog", -0.6),
        ("repetition", "", 0),
        ("length", "one two three", 0),
        ("length", "one", -2 / 3),
        ("length", "", -1),
        ("length", "word " * 30, -0.25),
        ("length", "word " * 500, -1),
        ("unfinished", "a dog barks and the", -1),
        ("unfinished", "a dog barks and the.", -1),
        ("unfinished", "a dog barks", 0),
        ("unfinished", " .", -1),
        ("full_stop", "A dog barks.", 0),
        ("full_stop", "a dog barks", -1),
        ("full_stop", "", -1),
    ],
)
def test_each_text_term_finds_its_fault(term, caption, value):
    assert TERMS[term](caption, CONFIG) == pytest.approx(value)


def test_terms_without_weight_are_left_out():
    assert weighted_terms(["", "a"], CONFIG).tolist() == [0, 0]
    assert weighted_terms(["", "a dog barks"], TextTermsConfig(length=2, unfinished=1)).tolist() == [-3, 0]
