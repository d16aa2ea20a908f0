import time
import timeit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcap.preferences.reading import Claim, Fault, read_caption, repeated_share
from rlcap.preferences.words import stem
from rlcap.soundscapes.grammar import vocabulary, write_caption
from rlcap.soundscapes.lexicon import Lexicon
from rlcap.soundscapes.scene import Relation
from rlcap.soundscapes.world import LABELS, scene_of

WORLD = Lexicon.for_labels(LABELS)


def read(text):
    return read_caption(text, WORLD)


@pytest.mark.parametrize(
    "text",
    [
        "a dog barks",
        "dog barking",
        "Dogs barked.",
        "the barking of a dog",
        "barking",
        "a dog is heard barking",
        "a hound barks",
    ],
)
def test_inflections_and_synonyms_name_the_same_sound(text):
    assert read(text).claims == (Claim("dog bark"),)
    assert not read(text).faults


def test_the_longest_phrase_wins():
    assert read("a cat crying").labels == ("cat meow",)
    assert read("a baby crying").labels == ("baby cry",)


@pytest.mark.parametrize(
    ("words", "count"), [("once", 1), ("twice", 2), ("three times", 3), ("several times", None), ("", None)]
)
def test_counts_belong_to_the_sound_before_them(words, count):
    assert read(f"rain falls while a dog barks {words}").claims == (Claim("rain"), Claim("dog bark", count))


@pytest.mark.parametrize(
    ("text", "relation"),
    [
        ("a dog barks then rain falls", Relation.before),
        ("a dog barks and then rain falls", Relation.before),
        ("a dog barking followed by rain falling", Relation.before),
        ("a dog barks before rain falls", Relation.before),
        ("after a dog barks rain falls", Relation.before),
        ("a dog barks after rain falls", Relation.after),
        ("before a dog barks rain falls", Relation.after),
        ("a dog barks while rain falls", Relation.overlapping),
        ("while a dog barks rain falls", Relation.overlapping),
        ("a dog barking with rain falling", Relation.overlapping),
        ("a dog barks and rain falls", None),
        ("a dog barks, rain falls", None),
    ],
)
def test_joins_say_how_sounds_stand_in_time(text, relation):
    found = read(text)
    assert found.labels == ("dog bark", "rain")
    assert found.relations == (relation,)
    assert not found.faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", Fault.empty),
        (" ,.! ", Fault.empty),
        ("a dog barks while a", Fault.unfinished),
        ("a dog barks and", Fault.unfinished),
        ("a dog barks while a dog", Fault.unfinished),
        ("a dog and rain falls", Fault.unfinished),
        ("a dog barks barks", Fault.doubled),
        ("rain falls while while a dog barks", Fault.doubled),
        ("a dog barks of while rain falls", Fault.garbled),
        ("the is rain", Fault.garbled),
        ("then a dog barks", Fault.garbled),
        ("a dog barks followed rain falls", Fault.garbled),
        ("a dog barks rain falls", Fault.run_on),
    ],
)
def test_faults_are_named(text, fault):
    assert fault in read(text).faults


def test_unknown_words_are_stray_and_may_name_sounds_of_their_own():
    found = read("a dog barks while music plays")
    assert found.stray_share == pytest.approx(2 / 6)
    assert not found.faults


def test_sounds_named_again_are_repeats():
    found = read("a dog barks then rain falls then a dog barks")
    assert found.labels == ("dog bark", "rain")
    assert found.num_repeats == 1


def test_repeated_share_counts_n_grams_seen_before():
    assert repeated_share(["a", "b", "c", "a", "b", "c"]) == pytest.approx(1 / 4)
    assert repeated_share(["a", "a", "a", "a"], order=1) == pytest.approx(3 / 4)
    assert repeated_share(["a", "b"]) == 0


def test_labels_of_function_words_and_joins_can_be_read():
    lexicon = Lexicon.for_labels(["some noise", "rock and roll", "rain"])
    assert read_caption("some noise while rock and roll can be heard", lexicon).labels == (
        "some noise",
        "rock and roll",
    )


@pytest.mark.parametrize(
    "words",
    [
        ("bark", "barks", "barking", "barked"),
        ("cry", "cries", "crying"),
        ("run", "runs", "running"),
        ("ring", "rings", "ringing"),
        ("fall", "falls", "falling"),
    ],
)
def test_inflections_share_a_stem(words):
    assert len({stem(word) for word in words}) == 1


@settings(max_examples=300, deadline=None)
@given(words=st.lists(st.sampled_from([*vocabulary(WORLD), "xyz", ",", "é", "times"]), max_size=30))
def test_any_words_can_be_read(words):
    found = read(" ".join(words))
    assert len(found.relations) == max(0, len(found.claims) - 1)
    assert 0 <= found.stray_share <= 1
    assert 0 <= found.repetition <= 1
    assert set(found.labels) <= set(LABELS)
    assert found == read(" ".join(words))


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_can_be_read(text):
    read(text)


def test_reading_takes_less_than_fifty_microseconds():
    rng = np.random.default_rng(0)
    captions = [write_caption(scene_of(0, index), WORLD, rng) for index in range(500)]
    # About 20 microseconds each; the best of several rounds is what the machine can do when it is not busy.
    rounds_s = timeit.repeat(
        lambda: [read(caption) for caption in captions], repeat=8, number=1, timer=time.process_time
    )
    assert min(rounds_s) / len(captions) < 50e-6
