"""The Chrome trace of a run, read as a viewer reads it."""

import json
import logging
from pathlib import Path

import pytest

from actors.audio_cursor import AudioCursor
from actors.messages import RolloutInfo
from rlcap.algorithm.ready_batches import CollectedBatch
from rlcap.algorithm.spans import LEARN, PUBLISH, WAIT, Span, SpanLog
from rlcap.algorithm.update_report import UpdateReport
from rlcap.pipeline.timeline import Timeline

CURSOR = AudioCursor(num_clips=8, batch_size=2, seed=0)
EPOCH_S = 1.7e9


def answered(batch, actor_id, began_at_s, *, load_s=0.0, audio_wait_s=0.0):
    info = RolloutInfo(
        policy_version=0,
        reward_version="a",
        num_captions=4,
        audio_s=1.0,
        began_at_s=EPOCH_S + began_at_s,
        wall_s=2.0,
        audio_wait_s=audio_wait_s,
        load_s=load_s,
        quarantined=(),
    )
    return CollectedBatch(CURSOR.batch(batch), reward=None, rollouts=None, info=info, actor_id=actor_id)


def report_of(update):
    """An update of ten seconds: three of waiting, six of learning, one of publishing."""
    start = EPOCH_S + 10.0 * (update - 1) + 1e-7  # no whole microsecond
    spans = (Span(WAIT, start, start + 3), Span(LEARN, start + 3, start + 9), Span(PUBLISH, start + 9, start + 9.5))
    batches = (
        answered(2 * update - 2, 1, 10.0 * (update - 1), load_s=0.25, audio_wait_s=0.5),
        answered(2 * update - 1, 2, 10.0 * (update - 1) + 0.5),
    )
    return UpdateReport(update, {}, (), (), batches, spans=spans)


def events_of(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


def tracks(path: Path):
    """The spans of each track, by the name of its thread."""
    events = events_of(path)
    names = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"}
    found = {name: [] for name in names.values()}
    for event in events:
        if event["ph"] == "X":
            assert isinstance(event["ts"], int)
            assert event["dur"] >= 0
            found[names[event["pid"], event["tid"]]].append(event)
    return found


def lies_within(inner, outer):
    return outer["ts"] <= inner["ts"] and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]


def overlap(one, other):
    return one["ts"] < other["ts"] + other["dur"] and other["ts"] < one["ts"] + one["dur"]


def test_spans_of_a_track_lie_within_one_another_or_apart(tmp_path):
    timeline = Timeline(tmp_path / "timeline.json")
    for update in (1, 2, 3):
        done = EPOCH_S + 10 * (update - 1)
        timeline.note(report_of(update), [Span("checkpoint", done + 9.6, done + 9.9)])
    found = tracks(tmp_path / "timeline.json")
    assert set(found) == {"training loop", "caption actor 1", "caption actor 2"}
    for track in found.values():
        for index, one in enumerate(track):
            for other in track[:index]:
                assert not overlap(one, other) or lies_within(one, other) or lies_within(other, one)
    loop = [event["name"] for event in found["training loop"]]
    assert loop == [name for n in (1, 2, 3) for name in (f"update {n}", WAIT, LEARN, PUBLISH, "checkpoint")]
    whole, *parts = found["training loop"][:4]
    assert all(lies_within(part, whole) for part in parts)
    assert sum(part["dur"] for part in parts) == pytest.approx(whole["dur"], abs=3)
    batch, load, wait = found["caption actor 1"][:3]
    assert (batch["name"], batch["dur"]) == ("batch 0", 2_000_000)
    assert (load["name"], load["dur"]) == ("load weights", 250_000)
    assert (wait["name"], wait["ts"]) == ("wait for audio", load["ts"] + load["dur"])
    assert [event["name"] for event in found["caption actor 2"]] == ["batch 1", "batch 3", "batch 5"]


@pytest.mark.parametrize("num_lost", [0, 1, 4, 40, 400, 100_000])
def test_a_resumed_run_goes_on_with_a_timeline_that_a_kill_has_torn(tmp_path, num_lost):
    path = tmp_path / "timeline.json"
    Timeline(path).note(report_of(1))
    before = events_of(path)
    path.write_bytes(path.read_bytes()[: -num_lost or None])
    Timeline(path).note(report_of(2))
    fresh = tmp_path / "fresh.json"
    Timeline(fresh).note(report_of(2))
    num_kept = len(events_of(path)) - len(events_of(fresh))
    assert events_of(path) == before[:num_kept] + events_of(fresh)
    assert num_kept == len(before) if num_lost < 1 else num_kept >= 0


def test_a_full_disk_ends_the_timeline_and_not_the_run(tmp_path, caplog):
    timeline = Timeline(tmp_path / "nowhere/timeline.json")
    with caplog.at_level(logging.WARNING):
        timeline.note(report_of(1))
        timeline.note(report_of(2))
    assert len(caplog.records) == 1
    assert "timeline.json cannot be written, and is left as it is" in caplog.text


def test_spans_are_noted_where_a_block_raises_and_taken_once():
    log = SpanLog()
    with pytest.raises(ZeroDivisionError), log.span("outer"), log.span("inner"):
        _ = 1 / 0
    inner, outer = log.take()
    assert (inner.name, outer.name) == ("inner", "outer")
    assert outer.begin_s <= inner.begin_s <= inner.end_s <= outer.end_s
    assert log.take() == ()
