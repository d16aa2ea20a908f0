import dataclasses

import numpy as np

from rlcap.preferences.annotators import TASTES, Annotators
from rlcap.preferences.assessment import assess
from rlcap.preferences.reading import read_caption
from rlcap.soundscapes.grammar import write_caption
from rlcap.soundscapes.lexicon import Lexicon
from rlcap.soundscapes.scene import Scene, SceneEvent
from rlcap.soundscapes.world import KINDS, LABELS, scene_of

WORLD = Lexicon.for_labels(LABELS)
ANNOTATORS = Annotators(WORLD)
SCENE = Scene((SceneEvent("dog bark", 0.5, 1.2, 2), SceneEvent("rain", 2.0, 4.0)))


def misheard(scene, rng):
    """The caption of an imperfect listener: sounds confused, missed, invented, miscounted."""
    events = {}
    for event in scene.events:
        label = LABELS[rng.integers(len(LABELS))] if rng.random() < 0.35 else event.label
        count = event.count
        if KINDS[label].countable and (not count or rng.random() < 0.4):
            count = int(rng.integers(1, 4))
        if len(scene.events) == 1 or rng.random() < 0.85:
            events[label] = dataclasses.replace(event, label=label, count=count if KINDS[label].countable else 0)
    if not events or rng.random() < 0.12:
        events["wind"] = SceneEvent("wind", 0.0, 4.0)
    return write_caption(Scene(tuple(events.values())), WORLD, rng)


def votes_on_misheard_pairs(num_pairs, seed):
    rng = np.random.default_rng(seed)
    scenes = [scene_of(21, index) for index in range(num_pairs)]
    return np.array([ANNOTATORS.judge_pair(s, misheard(s, rng), misheard(s, rng), rng) for s in scenes])


def test_an_assessment_counts_what_is_right_and_wrong():
    found = assess(SCENE, read_caption("a dog barks three times after rain falls while a bell rings", WORLD))
    assert (found.num_right, found.num_missing, found.num_invented) == (2, 0, 1)
    assert (found.order, found.counts, found.num_faults) == (-1, -1, 0)
    assert found.recall == 1
    assert not found.names_exactly


def test_counting_what_goes_on_is_miscounting():
    assert assess(SCENE, read_caption("rain falls twice", WORLD)).counts == -1


def test_annotators_prefer_the_truth_to_another_scenes_caption():
    rng = np.random.default_rng(0)
    votes = []
    for index in range(300):
        scene, other = scene_of(3, index), scene_of(4, index)
        truth, lie = (write_caption(told, WORLD, rng) for told in (scene, other))
        votes.append(ANNOTATORS.judge_pair(scene, truth, lie, rng))
    assert (np.array(votes) == 1).mean() > 0.9


def test_one_annotator_agrees_with_the_majority_of_the_others_in_about_nine_of_ten():
    votes = votes_on_misheard_pairs(1500, seed=1)
    majority = np.sign(votes.sum(1, keepdims=True) - votes)
    decided = (majority != 0) & (votes != 0)
    agreement = (majority == votes)[decided].mean()
    assert 0.87 <= agreement <= 0.94


def test_votes_do_not_depend_on_which_caption_comes_first():
    rng = np.random.default_rng(2)
    pair = "a dog barks twice then rain falls", "a dog barks then wind blows"
    forward = np.array([ANNOTATORS.judge_pair(SCENE, *pair, rng) for _ in range(400)])
    backward = np.array([ANNOTATORS.judge_pair(SCENE, *reversed(pair), rng) for _ in range(400)])
    assert abs(forward.mean() + backward.mean()) < 0.05


def test_equal_captions_are_a_tie_for_all():
    rng = np.random.default_rng(0)
    assert ANNOTATORS.judge_pair(SCENE, "a dog barks", "a dog is barking", rng) == (0, 0, 0, 0)


def test_votes_are_functions_of_the_generator():
    np.testing.assert_array_equal(votes_on_misheard_pairs(50, seed=4), votes_on_misheard_pairs(50, seed=4))


def test_annotators_differ_in_taste():
    assert len(set(TASTES)) == 4
    votes = votes_on_misheard_pairs(500, seed=5)
    assert len({tuple(column) for column in votes.T}) == 4
