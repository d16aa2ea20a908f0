import time
import timeit

import numpy as np
import pytest

from rlcap.protocols import AudioSource
from rlcap.soundscapes.scene import Relation, Scene, SceneEvent
from rlcap.soundscapes.stream import ENDLESS, SoundscapeSource
from rlcap.soundscapes.synthesis.kinds import KINDS
from rlcap.soundscapes.world import LABELS, SAMPLE_RATE_HZ, render, render_scene, scene_of

SCENES = [scene_of(0, index) for index in range(600)]


def test_a_clip_is_a_function_of_seed_and_index():
    (clip, scene), (again, same_scene) = render(7, 3), render(7, 3)
    assert clip.waveform.tobytes() == again.waveform.tobytes()
    assert scene == same_scene == scene_of(7, 3)
    assert not np.array_equal(clip.waveform[:40_000], render(7, 4)[0].waveform[:40_000])
    assert not np.array_equal(clip.waveform[:40_000], render(8, 3)[0].waveform[:40_000])


def test_clips_are_sound_of_three_to_five_seconds_within_range():
    for index in range(40):
        clip, scene = render(1, index)
        assert clip.waveform.dtype == np.float32
        assert np.isfinite(clip.waveform).all()
        assert 0.2 < np.abs(clip.waveform).max() <= 0.951
        duration_s = len(clip.waveform) / SAMPLE_RATE_HZ
        assert 3.0 <= duration_s <= 5.0
        assert max(event.offset_s for event in scene.events) <= duration_s


def test_scenes_vary_over_every_kind_number_count_and_relation():
    assert {label for scene in SCENES for label in scene.labels} == set(LABELS)
    assert {len(scene.events) for scene in SCENES} == {1, 2, 3}
    assert {event.count for scene in SCENES for event in scene.events} == {0, 1, 2, 3}
    relations = {a.relation_to(b) for scene in SCENES for a, b in zip(scene.events, scene.events[1:], strict=False)}
    assert relations == {Relation.overlapping, Relation.before}


def test_twenty_clips_in_a_row_lack_no_sound():
    for deck in range(0, 600, len(LABELS)):
        heard = {event.label for scene in SCENES[deck : deck + len(LABELS)] for event in scene.events}
        assert heard == set(LABELS)


def test_scenes_name_each_sound_once_and_count_what_can_be_counted():
    for scene in SCENES:
        assert len(scene.labels) == len(scene.events)
        for event in scene.events:
            assert KINDS[event.label].countable == (event.count > 0)
            assert event.duration_s > 0.15


def test_events_stand_out_from_the_background():
    scene = Scene((SceneEvent("car horn", 1.0, 2.0, 1),))
    for seed in range(20):
        power = np.square(render_scene(scene, np.random.default_rng(seed)))
        assert power[17_600:30_400].mean() > 1.8 * power[:14_400].mean()


def test_a_clip_costs_at_most_ten_milliseconds():
    def render_some():
        for index in range(20):
            render(2, index)

    # About 5 ms on one core; the best of several rounds is what the machine can do when it is not busy.
    assert min(timeit.repeat(render_some, repeat=4, number=1, timer=time.process_time)) / 20 < 0.010


def test_the_source_reads_its_range_in_the_order_asked():
    source = SoundscapeSource(seed=5, first=100, size=10)
    assert isinstance(source, AudioSource)
    assert len(source) == 10
    clips, quarantined = source.read([9, 0, 9])
    assert [clip.clip_id for clip in clips] == ["soundscape-5-109", "soundscape-5-100", "soundscape-5-109"]
    assert quarantined == []
    np.testing.assert_array_equal(clips[1].waveform, render(5, 100)[0].waveform)
    assert source.scene(9) == scene_of(5, 109)


def test_the_source_without_a_size_is_endless():
    source = SoundscapeSource(seed=5)
    assert len(source) == ENDLESS
    assert source.read([10**12])[0][0].clip_id == f"soundscape-5-{10**12}"


@pytest.mark.parametrize("position", [-1, 10])
def test_positions_outside_the_source_are_refused(position):
    with pytest.raises(IndexError, match=r"\[0, 10\)"):
        SoundscapeSource(seed=0, size=10).read([position])


@pytest.mark.parametrize("arguments", [(-1, 0, 1), (0, -1, 1), (0, 0, -1)])
def test_negative_ranges_are_refused(arguments):
    with pytest.raises(ValueError, match="0 or more"):
        SoundscapeSource(*arguments)
