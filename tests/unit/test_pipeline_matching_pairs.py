import numpy as np

from rlcap.config.data import Split
from rlcap.pipeline.clips import SplitClips
from rlcap.pipeline.listening import Heard
from rlcap.pipeline.matching_pairs import FOREIGN, OWN, draw_matching_pairs
from rlcap.soundscapes.lexicon import Lexicon
from rlcap.soundscapes.scene import Scene
from rlcap.types import PolicyFeatures

LABELS = ["dog bark", "rain", "siren"]
NUM_CLIPS = 60


def split_clips(scenes):
    """Clips that differ in their captions; only ids, scenes and captions are read."""
    clip_ids = tuple(f"clip-{i}" for i in range(NUM_CLIPS))
    captions = tuple((f"caption of {clip_id}",) for clip_id in clip_ids)
    clips = SplitClips(Split.clap, None, clip_ids, scenes, captions, Lexicon.for_labels(LABELS), "key", "")
    heard = Heard(PolicyFeatures(np.zeros((0, 1, 1)), np.zeros((0, 1), bool)), clip_ids, tuple(range(NUM_CLIPS)), ())
    return clips, heard


def labelled():
    return tuple(Scene.from_labels([LABELS[i % 3]]) for i in range(NUM_CLIPS))


def draw(clips, heard, per_clip=4, without=(), seed=0):
    return draw_matching_pairs(clips, heard, per_clip, without=without, seed=seed)


def test_a_clips_own_caption_always_wins_wherever_it_stands():
    pairs = draw(*split_clips(labelled()))
    assert {pair.source_a for pair in pairs} == {OWN, FOREIGN}
    for pair in pairs:
        own, foreign = (pair.caption_a, pair.caption_b)[:: pair.majority]
        assert own == f"caption of {pair.clip_id}" != foreign


def test_clips_with_the_same_sounds_are_never_set_against_each_other():
    pairs = draw(*split_clips(labelled()))
    assert 0 < len(pairs) < 4 * NUM_CLIPS
    for pair in pairs:
        first, second = (int(caption.rsplit("-", 1)[1]) for caption in (pair.caption_a, pair.caption_b))
        assert first % 3 != second % 3


def test_clips_without_labels_are_set_against_any_other():
    pairs = draw(*split_clips((None,) * NUM_CLIPS))
    assert len(pairs) > 3.5 * NUM_CLIPS
    assert all(pair.caption_a != pair.caption_b for pair in pairs)


def test_clips_under_vote_get_no_pair():
    clips, heard = split_clips(labelled())
    without = set(clips.clip_ids[:50])
    assert {pair.clip_id for pair in draw(clips, heard, without=without)} == set(clips.clip_ids[50:])


def test_the_same_seed_gives_the_same_pairs():
    clips, heard = split_clips(labelled())
    assert draw(clips, heard, seed=3) == draw(clips, heard, seed=3) != draw(clips, heard, seed=4)
