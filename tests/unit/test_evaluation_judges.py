import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcap.evaluation.judges import JudgePanel
from rlcap.preferences.annotators import Annotators
from rlcap.soundscapes.grammar import vocabulary, write_caption
from rlcap.soundscapes.lexicon import Lexicon
from rlcap.soundscapes.scene import Scene, SceneEvent
from rlcap.soundscapes.world import LABELS, scene_of

WORLD = Lexicon.for_labels(LABELS)
PANEL = JudgePanel(WORLD)
SCENE = Scene((SceneEvent("dog bark", 0.5, 1.2, 2), SceneEvent("rain", 2.0, 4.0)))
CAPTIONS = st.lists(st.sampled_from(vocabulary(WORLD)), max_size=15).map(" ".join)

# From best to worst: each must beat all that follow.
LADDER = [
    "a dog barks twice then rain falls",
    "a dog barks then rain falls",
    "rain falls then a dog barks three times",
    "a dog barks then rain falls while a siren wails",
    "a dog barks",
    "a dog barks while a siren wails and a bell rings",
    "a siren wails",
    "while siren siren a a bell",
]


@pytest.mark.parametrize(("better", "worse"), list(itertools.combinations(LADDER, 2)))
def test_judges_rank_captions_as_a_sane_listener_would(better, worse):
    assert PANEL.quality(SCENE, better) > PANEL.quality(SCENE, worse)
    assert PANEL.verdict(SCENE, better, worse) == 1
    assert PANEL.verdict(SCENE, worse, better) == 0


@pytest.mark.parametrize(
    "spoilt",
    [
        "a dog barks twice then rain falls then",
        "a dog barks twice then then rain falls",
        "a dog barks twice rain falls",
        "a dog barks twice then rain falls then a dog barks",
        "a dog barks twice then rain falls zzz zzy zzx",
        "a dog barks twice then rain falls" + " in the background" * 8,
    ],
)
def test_bad_english_repetition_and_padding_lose_to_the_plain_caption(spoilt):
    assert PANEL.verdict(SCENE, "a dog barks twice then rain falls", spoilt) == 1


def test_synonyms_are_worth_the_same():
    assert PANEL.verdict(SCENE, "a dog barks then rain falls", "a hound barking followed by falling rain") == 0.5


def test_naming_right_needs_all_sounds_and_no_others_whatever_the_order():
    assert PANEL.named_right(SCENE, "rain falls then a dog barks three times")
    assert not PANEL.named_right(SCENE, "a dog barks")
    assert not PANEL.named_right(SCENE, "a dog barks while rain falls and a bell rings")


@settings(max_examples=200, deadline=None)
@given(index=st.integers(0, 5000), other=CAPTIONS)
def test_nothing_beats_the_full_truth(index, other):
    scene = scene_of(31, index)
    truths = [write_caption(scene, WORLD, np.random.default_rng(seed)) for seed in range(12)]
    best = max(truths, key=lambda caption: PANEL.quality(scene, caption))
    assert PANEL.verdict(scene, best, other) >= 0.5
    assert PANEL.named_right(scene, best)


@settings(max_examples=200, deadline=None)
@given(first=CAPTIONS, second=CAPTIONS)
def test_verdicts_are_symmetric(first, second):
    assert PANEL.verdict(SCENE, first, second) == 1 - PANEL.verdict(SCENE, second, first)
    assert PANEL.verdict(SCENE, first, first) == 0.5


def test_annotators_mostly_side_with_the_panel_without_being_it():
    annotators, rng = Annotators(WORLD), np.random.default_rng(0)
    sided = []
    for index in range(400):
        scene = scene_of(32, index)
        told = [write_caption(Scene(scene.events[:1] + scene_of(33, index + k).events[:k]), WORLD, rng) for k in (0, 1)]
        verdict = PANEL.verdict(scene, *told)
        votes = sum(annotators.judge_pair(scene, *told, rng))
        if verdict != 0.5 and votes:
            sided.append((verdict > 0.5) == (votes > 0))
    assert 0.8 < np.mean(sided) < 1
