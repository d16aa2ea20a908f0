import pytest

from rlcap.soundscapes.scene import Relation, Scene, SceneEvent

BARK = SceneEvent("dog bark", 2.0, 2.5, 1)
RAIN = SceneEvent("rain", 0.5, 4.0)
BELL = SceneEvent("bell", 2.6, 3.4, 1)


def test_events_are_ordered_by_onset():
    assert Scene((BELL, BARK, RAIN)).labels == ("rain", "dog bark", "bell")


def test_an_event_inside_another_overlaps_it_both_ways():
    assert RAIN.relation_to(BARK) is Relation.overlapping
    assert BARK.relation_to(RAIN) is Relation.overlapping


def test_events_one_after_the_other_are_before_and_after():
    assert BARK.relation_to(BELL) is Relation.before
    assert BELL.relation_to(BARK) is Relation.after


def test_a_brush_of_two_events_is_no_overlap():
    late = SceneEvent("siren", 2.4, 3.4)
    assert BARK.relation_to(late) is Relation.before


def test_relation_of_absent_sounds_is_none():
    assert Scene((BARK,)).relation("dog bark", "rain") is None


def test_json_round_trip_keeps_the_scene():
    scene = Scene((BARK, RAIN, BELL))
    assert Scene.from_json(scene.to_json()) == scene


@pytest.mark.parametrize("text", ['[{"name": "rain"}]', "3", "{", '[{"label": "x", "onset_s": 2, "offset_s": 1}]'])
def test_text_that_is_no_scene_is_refused(text):
    with pytest.raises(ValueError, match=r"scene must be|event 'x' must"):
        Scene.from_json(text)


@pytest.mark.parametrize(("onset_s", "offset_s", "count"), [(-0.1, 1.0, 0), (1.0, 1.0, 0), (0.0, 1.0, -1)])
def test_impossible_events_are_refused(onset_s, offset_s, count):
    with pytest.raises(ValueError, match="'rain'"):
        SceneEvent("rain", onset_s, offset_s, count)


def test_recordings_with_labels_alone_make_scenes():
    scene = Scene.from_labels(["rain", "wind"])
    assert scene.labels == ("rain", "wind")
    assert scene.relation("rain", "wind") is Relation.overlapping
