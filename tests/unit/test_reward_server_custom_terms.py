"""Text terms of a user: found by name, refused by name, and never a made-up score."""

import json
import math

import numpy as np
import pytest
import torch
from ray import cloudpickle

from reward_server import custom_terms
from reward_server.custom_terms import custom_values, find_text_terms, known_text_terms, register_text_term
from reward_server.heads import MlpHead
from reward_server.scoring import ClapReward
from reward_server.shard import Shard
from reward_server.small_clap import SmallClap
from rlcap.audio.features import LogMelConfig
from rlcap.config.load import load_config
from rlcap.config.reward import ClapConfig, RewardConfig, TextTermsConfig
from rlcap.errors import CheckpointError, ConfigError, RewardError
from rlcap.pipeline.stages import Stages
from rlcap.types import Clip

CAPTIONS = ["a dog barks", "rain", "a dog barks"]
CLIP = Clip("one", np.sin(np.arange(8_000) / 9).astype(np.float32), 16_000)


@pytest.fixture(autouse=True)
def _empty_registry(monkeypatch):
    monkeypatch.setattr(custom_terms, "_registered", {})


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that puts a package with one text term on the path, as an installer would."""

    def put(package, entry, source=""):
        site = tmp_path / package
        information = site / f"{package}-1.0.dist-info"
        information.mkdir(parents=True)
        (site / f"{package}.py").write_text(source, encoding="utf-8")
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[rlcap.text_terms]\n{entry}\n")
        monkeypatch.syspath_prepend(site)

    return put


def reward(**weights):
    config = ClapConfig(embedding_dim=16, audio_channels=[4] * 4, num_segments=2, text_width=16, num_heads=2)
    torch.manual_seed(0)
    clap = SmallClap.for_captions(config, CAPTIONS, LogMelConfig(), seed=0)
    return ClapReward(clap, MlpHead(16, [8, 4]), TextTermsConfig(custom=weights))


def scores(model):
    return model.score(model.embed_audio([CLIP]), CAPTIONS, np.zeros(3, dtype=np.int64))


def shard_scores(model):
    shard = Shard("shard-0", RewardConfig())
    return shard.score(model, ["one"], lambda _: [CLIP], CAPTIONS, np.zeros(3, dtype=np.int64))


def test_a_registered_term_is_added_by_its_weight_and_reads_each_caption_once():
    read = []
    register_text_term("words", lambda caption: read.append(caption) or len(caption.split()))
    np.testing.assert_allclose(scores(reward(words=-0.5)), scores(reward()) - [1.5, 0.5, 1.5], rtol=1e-5, atol=1e-6)
    assert read == ["a dog barks", "rain"]


def test_a_term_of_an_installed_package_is_found_by_its_name(install):
    install("loud_words", "loud = loud_words:loud", "def loud(caption):\n    return float(caption.isupper())\n")
    assert "loud" in known_text_terms()
    terms = find_text_terms(["loud"])
    assert custom_values(["RAIN", "rain"], terms, {"loud": 2.0}).tolist() == [2, 0]


def test_the_order_in_which_weights_are_given_changes_no_bit():
    for power, name in enumerate("abcde"):
        register_text_term(name, lambda caption, power=power: len(caption) / 3 ** (power + 1))
    weights = {name: 0.1 for name in "abcde"}
    backwards = dict(reversed(weights.items()))
    one, other = (custom_values(CAPTIONS, find_text_terms(each), each) for each in (weights, backwards))
    assert np.array_equal(one, other)


def test_a_name_that_nobody_offers_is_refused_with_those_that_are_known():
    register_text_term("politeness", len)
    fault = r"reward\.text_terms\.custom\.polite is not .*; did you mean politeness\? known here: politeness; install"
    with pytest.raises(ConfigError, match=fault):
        reward(polite=1.0)


def test_what_an_entry_point_names_must_be_one_function_that_can_be_imported(install):
    install("gone", "gone = nowhere_at_all:term")
    install("number", "number = number:term", "term = 3\n")
    install("first", "twice = first:term")
    install("second", "twice = second:term")
    with pytest.raises(ConfigError, match="cannot be had from nowhere_at_all:term: No module"):
        find_text_terms(["gone"])
    with pytest.raises(ConfigError, match="number:term is no function, got int"):
        find_text_terms(["number"])
    with pytest.raises(ConfigError, match=r"is offered 2 times, as first:term and second:term"):
        find_text_terms(["twice"])


def test_a_name_is_refused_before_any_stage_runs(tmp_path):
    stages = Stages(load_config(["experiment=smoke", f"cache_dir={tmp_path}", "reward.text_terms.custom.polite=0.5"]))
    with pytest.raises(ConfigError, match="known here: none"):
        stages.check_settings()
    with pytest.raises(ConfigError, match="known here: none"):
        stages.reward(stages.config.reward.head.kind)
    assert list(tmp_path.iterdir()) == []


def test_a_term_that_raises_fails_the_request_and_says_why():
    register_text_term("broken", lambda caption: 1 / (len(caption) - 4))
    with pytest.raises(RewardError, match="text term 'broken' failed on the caption 'rain': ZeroDivisionError"):
        scores(reward(broken=1.0))
    found = shard_scores(reward(broken=1.0))
    assert found.failed.all()
    assert "text term 'broken' failed on the caption 'rain'" in found.failure_reasons[0]


def test_what_is_no_number_fails_as_well():
    register_text_term("nothing", lambda caption: None)
    with pytest.raises(RewardError, match=r"'nothing' failed .* TypeError"):
        scores(reward(nothing=1.0))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_a_value_that_is_not_finite_fails_its_own_caption_alone(value):
    register_text_term("odd", lambda caption: value if caption == "rain" else 0.0)
    found = shard_scores(reward(odd=-1.0))
    assert found.failed.tolist() == [False, True, False]
    assert np.isnan(found.scores[1])


def test_a_saved_model_keeps_its_terms_and_is_refused_where_one_is_missing(tmp_path):
    register_text_term("words", lambda caption: len(caption.split()))
    model = reward(words=0.25)
    model.save(tmp_path)
    loaded = ClapReward.load(tmp_path)
    assert loaded.version == model.version
    assert np.array_equal(scores(loaded), scores(model))
    custom_terms._registered.clear()
    with pytest.raises(CheckpointError, match=r"needs what is missing here: .*custom\.words is not a text term"):
        ClapReward.load(tmp_path)


def test_functions_travel_with_the_model_to_processes_that_do_not_know_them():
    register_text_term("words", lambda caption: len(caption.split()))
    model = reward(words=0.25)
    sent = cloudpickle.dumps(model)
    custom_terms._registered.clear()
    arrived = cloudpickle.loads(sent)
    assert arrived.version == model.version
    assert np.array_equal(scores(arrived), scores(model))


def test_the_version_changes_with_name_and_weight_and_terms_without_weight_leave_no_trace(tmp_path):
    register_text_term("one", len)
    register_text_term("two", len)
    versions = {reward(**weights).version for weights in ({}, {"one": 1.0}, {"one": 2.0}, {"two": 1.0})}
    assert len(versions) == 4
    reward(one=0.0).save(tmp_path)
    assert reward(one=0.0).version == reward().version
    assert "custom" not in json.loads((tmp_path / "reward.json").read_text())["text_terms"]


def test_weights_come_from_the_command_line():
    key = "reward.text_terms.custom"
    assert load_config([f"{key}.polite=1", f"{key}.rude=-0.5"]).reward.text_terms.custom == {
        "polite": 1.0,
        "rude": -0.5,
    }
    for value, fault in (
        (f"{key}.polite=much", f"{key} must be a mapping, each value a number"),
        (f"{key}.polite=true", f"{key} must be a mapping, each value a number"),
        (f"{key}=polite", f"{key} must be a mapping, each value a number"),
        (f"{key}.polite=inf", f"{key}.polite must be finite"),
    ):
        with pytest.raises(ConfigError, match=fault):
            load_config([value])
