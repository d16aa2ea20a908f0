import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcap.preferences.reading import read_caption
from rlcap.soundscapes.grammar import vocabulary, write_caption
from rlcap.soundscapes.lexicon import Lexicon, canonical_label
from rlcap.soundscapes.phrasings import OTHER_NAMES, PHRASINGS
from rlcap.soundscapes.scene import Relation, Scene, SceneEvent
from rlcap.soundscapes.world import LABELS, scene_of

WORLD = Lexicon.for_labels(LABELS)
EVERYTHING = Lexicon.for_labels(PHRASINGS)
WORDS = set(vocabulary(WORLD))
INDICES = st.integers(0, 10**6)


@settings(max_examples=400, deadline=None)
@given(index=INDICES)
def test_every_caption_reads_back_as_its_scene(index):
    scene = scene_of(11, index)
    caption = write_caption(scene, WORLD, np.random.default_rng(index))
    read = read_caption(caption, WORLD)
    assert not read.faults, caption
    assert read.stray_share == 0
    assert sorted(claim.label for claim in read.claims) == sorted(scene.labels)
    for first, second, relation in zip(read.claims, read.claims[1:], read.relations, strict=False):
        assert relation is scene.relation(first.label, second.label)
    for claim in read.claims:
        true_count = scene.find(claim.label).count
        assert claim.count == true_count or (claim.count is None and true_count < 2)


@settings(max_examples=200, deadline=None)
@given(index=INDICES)
def test_captions_are_lower_case_words_of_the_vocabulary(index):
    caption = write_caption(scene_of(12, index), WORLD, np.random.default_rng(index))
    assert re.fullmatch(r"[a-z]+( [a-z]+)*", caption)
    assert set(caption.split()) <= WORDS
    assert 2 <= len(caption.split()) <= 22


def test_every_word_of_the_vocabulary_is_used():
    rng = np.random.default_rng(0)
    said = {word for index in range(8000) for word in write_caption(scene_of(13, index), WORLD, rng).split()}
    assert WORDS - said <= {"four", "five"}


def test_captions_of_a_scene_vary_and_are_functions_of_the_generator():
    scene = scene_of(0, 8)
    captions = [write_caption(scene, WORLD, np.random.default_rng(seed)) for seed in range(20)]
    assert captions == [write_caption(scene, WORLD, np.random.default_rng(seed)) for seed in range(20)]
    assert len(set(captions)) > 5


@pytest.mark.parametrize("label", PHRASINGS)
def test_every_phrase_of_a_label_reads_as_that_label_and_no_other(label):
    phrasing = PHRASINGS[label]
    for phrase in (*phrasing.clauses, *phrasing.nouns, label):
        read = read_caption(phrase, EVERYTHING)
        assert [claim.label for claim in read.claims] == [label], phrase
    alone = Lexicon.for_labels([label])
    for phrase in alone.names(label):
        assert read_caption(phrase, alone).labels == (label,), phrase


def test_other_spellings_and_names_come_to_one_label():
    for name in ("dog bark", "Dog_Bark", "dog-bark", " DOG  bark ", "dog"):
        assert canonical_label(name) == "dog bark"
    assert canonical_label("Sea Waves") == "sea waves"
    assert set(OTHER_NAMES.values()) <= set(PHRASINGS)
    assert not set(OTHER_NAMES) & set(PHRASINGS)


def test_a_label_without_letters_is_refused():
    with pytest.raises(ValueError, match="'--'"):
        canonical_label("--")


@settings(max_examples=100, deadline=None)
@given(label=st.text("abcdefghijklmnopqrstuvwxyz _-", min_size=1, max_size=25).filter(lambda text: text.strip(" _-")))
def test_unknown_labels_get_captions_that_read_back(label):
    lexicon = Lexicon.for_labels([label, "rain"])
    (name, *_) = lexicon.labels
    for seed in range(4):
        caption = write_caption(Scene.from_labels([name]), lexicon, np.random.default_rng(seed))
        assert read_caption(caption, lexicon).labels == (name,)


def test_one_label_without_a_count_makes_a_plain_caption():
    lexicon = Lexicon.for_labels(["Dog_Bark", "glass harp"])
    captions = {
        write_caption(Scene.from_labels([label]), lexicon, np.random.default_rng(seed))
        for label in lexicon.labels
        for seed in range(60)
    }
    assert {"a dog is barking", "the sound of a dog barking", "glass harp can be heard"} <= captions
    assert not any("once" in caption for caption in captions)


def test_order_and_counts_are_told():
    scene = Scene((SceneEvent("dog bark", 0.2, 1.2, 3), SceneEvent("bell", 2.0, 3.0, 1)))
    for seed in range(30):
        caption = write_caption(scene, WORLD, np.random.default_rng(seed))
        assert "three times" in caption
        read = read_caption(caption, WORLD)
        assert read.relations == (Relation.before if read.labels[0] == "dog bark" else Relation.after,)


def test_a_scene_without_events_or_of_unknown_labels_is_refused():
    with pytest.raises(ValueError, match="without events"):
        write_caption(Scene(()), WORLD, np.random.default_rng(0))
    with pytest.raises(KeyError, match="zither"):
        write_caption(Scene.from_labels(["zither"]), WORLD, np.random.default_rng(0))
