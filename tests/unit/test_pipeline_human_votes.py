"""Reward models of captions alone, on what people have judged."""

from pathlib import Path

import numpy as np
import pytest

from reward_server.scoring import ClapReward
from rlcap.config.load import load_config
from rlcap.config.reward import HeadKind
from rlcap.errors import ConfigError, DataError
from rlcap.evaluation.scored_pairs import ScoredPairs, describe_scored_pairs
from rlcap.pipeline.preflight import make_all
from rlcap.pipeline.reward_fitting import HELDOUT_FILE
from rlcap.pipeline.stages import Stages
from rlcap.preferences.importing import import_pairs
from rlcap.preferences.pairs import PreferencePair, randomise_order, write_pairs

VOTES = Path(__file__).parents[3] / "shared/data/human_preferences/audiocaps_eval.json"
SMALL = ("reward.clap.embedding_dim=16", "reward.clap.text_width=16", "reward.head.num_epochs=2")


@pytest.fixture
def stages(tmp_path: Path):
    """Return a function that makes the stages of a fit on pairs, without any audio."""

    def make(pairs: list[PreferencePair], *settings: str) -> Stages:
        write_pairs(pairs, tmp_path / "pairs.parquet")
        places = [f"reward.preferences={tmp_path}/pairs.parquet", f"cache_dir={tmp_path}/cache"]
        return Stages(load_config(["experiment=human_votes", *places, *settings]))

    return make


def some_pairs() -> list[PreferencePair]:
    return [PreferencePair(f"clip-{clip}", f"a dog barks {clip}", "noise", (1, 1)) for clip in range(40)]


def test_captions_that_people_prefer_are_told_apart_without_audio(stages):
    if not VOTES.is_file():
        pytest.skip("the human judgements of AudioCaps captions are not here (../shared/data/human_preferences)")
    result = stages(randomise_order(import_pairs(VOTES).pairs, seed=0)).reward(HeadKind.text_only)
    figures = describe_scored_pairs(ScoredPairs.load(result.path / HELDOUT_FILE))
    accuracy = {each.category: each.accuracy for each in (figures.overall, *figures.categories)}
    assert accuracy[""].low > 0.55
    assert accuracy["MM"].low > 0.55
    # The other caption of these pairs was written by people as well, for another clip: the text tells nothing.
    assert accuracy["HI"].low < 0.5 < accuracy["HI"].high
    assert figures.calibration.expected_error < 0.1


def test_the_text_tower_knows_the_words_of_the_training_captions_alone(stages):
    some = stages(some_pairs(), *SMALL)
    reward = ClapReward.load(some.reward(HeadKind.text_only).path)
    fitting = some.fitting(HeadKind.text_only)
    words = set(fitting.make_clap(fitting.split).tokenizer.get_vocab())
    assert {word for word in words if word.isdigit()} == {clip.split("-")[1] for clip in fitting.split.training}
    audio = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    scores = reward.score(audio, ["noise", "noise", "a dog"], np.array([0, 1, 0]))
    assert scores[0] == pytest.approx(scores[1], abs=1e-5) != scores[2]


def test_only_the_text_tower_is_trained(stages):
    some = stages(some_pairs(), *SMALL)
    fitting = some.fitting(HeadKind.text_only)
    fitted, before = fitting.fit(fitting.split), fitting.make_clap(fitting.split)
    assert fitted.clap.encoder_fingerprint == before.encoder_fingerprint
    assert fitted.clap.fingerprint != before.fingerprint


def test_what_needs_audio_is_refused_in_words(stages):
    with pytest.raises(ConfigError) as caught:
        stages(some_pairs(), "reward.head.kind=mlp", "reward.matching_pairs_per_clip=1")
    assert "reward.head.kind must be text_only where data.kind is none, got mlp" in str(caught.value)
    assert "reward.matching_pairs_per_clip must be 0 where data.kind is none" in str(caught.value)
    with pytest.raises(ConfigError, match=r"reward\.head\.finetune_towers must be projections or all"):
        stages(some_pairs(), "reward.head.finetune_towers=none")
    with pytest.raises(ConfigError, match=r"reward\.preferences must name pairs"):
        load_config(["experiment=human_votes", "reward.preferences=''"])
    with pytest.raises(DataError, match="there is no audio to open: only `rlcap reward fit` does without"):
        make_all(stages(some_pairs()).data_checks())
