"""Batches that are decoded and heard before they are asked for, by a source that bears one thread at a time."""

import os
import threading
import time

import numpy as np
import pytest

from actors.hearing_ahead import HearingAhead
from rlcap.errors import DataError
from rlcap.types import Clip, PolicyFeatures, Quarantined

BROKEN, SILENT = 13, 99
"""Positions that cannot be read, and whose clip cannot be used."""


class Gate:
    """Lets whoever passes wait while the test holds it closed."""

    def __init__(self):
        self._open = threading.Event()
        self._open.set()
        self.reached = threading.Event()

    def close(self):
        self._open.clear()

    def open(self):
        self._open.set()

    def __call__(self):
        self.reached.set()
        assert self._open.wait(timeout=10)


class CountingSource:
    """Notes what is read."""

    def __init__(self):
        self.read_positions = []
        self.gate = Gate()
        self._one_at_a_time = threading.Lock()

    def read(self, positions):
        assert self._one_at_a_time.acquire(blocking=False), "two threads read at once"
        self.read_positions.append(positions)
        self.gate()
        self._one_at_a_time.release()
        if BROKEN in positions:
            raise DataError("the disk is gone")
        if SILENT in positions:
            return [], [Quarantined("99.wav", "is silent")]
        return [Clip(str(position), np.full(8_000, position, np.float32), 16_000) for position in positions], []


class CountingEar:
    """Hears the first sample of each clip; notes what it hears, and in which thread."""

    def __init__(self):
        self.heard = []
        self.threads = []
        self.policies = []
        self.gate = Gate()
        self.pause_s = 0.0

    def __call__(self, clips):
        time.sleep(self.pause_s)
        self.heard.append(tuple(clip.clip_id for clip in clips))
        self.threads.append(threading.current_thread())
        self.policies.append(os.sched_getscheduler(threading.get_native_id()))
        if threading.current_thread() is not threading.main_thread():
            self.gate()
        return features_of(clips)


def features_of(clips):
    frames = np.array([[[clip.waveform[0]]] for clip in clips], dtype=np.float32)
    return PolicyFeatures(frames, np.ones((len(clips), 1), dtype=bool))


@pytest.fixture
def source():
    return CountingSource()


@pytest.fixture
def ear():
    return CountingEar()


@pytest.fixture
def audio(source, ear):
    hearing = HearingAhead(source, ear, when_idle=True)
    ear.pause_s = 0.2
    hear(hearing, 0)  # from then on it knows how long listening takes
    ear.pause_s = 0.0
    source.read_positions.clear()
    for notes in (ear.heard, ear.threads, ear.policies):
        notes.clear()
    return hearing


def hear(hearing, *positions):
    """Hear these positions; returns the clips' names, after a look at what was heard of them."""
    batch = hearing.hear(positions)
    np.testing.assert_array_equal(batch.features.frames[:, 0, 0], [clip.waveform[0] for clip in batch.clips])
    return [clip.clip_id for clip in batch.clips]


def wait_until_heard(ear):
    assert ear.gate.reached.wait(timeout=10), "before anybody asks for it"


def test_a_batch_that_was_begun_in_time_is_read_and_heard_once_and_in_the_background(audio, source, ear):
    audio.begin((1, 2))
    wait_until_heard(ear)
    assert hear(audio, 1, 2) == ["1", "2"]
    assert source.read_positions == [(1, 2)]
    assert ear.heard == [("1", "2")]
    assert ear.threads[0] is not threading.current_thread()
    assert hear(audio, 1, 2) == ["1", "2"]
    assert source.read_positions == [(1, 2), (1, 2)], "nothing is kept that was handed out"


def test_a_wrong_expectation_costs_time_and_changes_nothing(audio, source):
    audio.begin((1, 2))
    assert hear(audio, 3) == ["3"]
    assert hear(audio, 4) == ["4"]
    assert source.read_positions[-2:] == [(3,), (4,)]


def test_what_was_not_begun_is_heard_by_who_asks(audio, ear):
    hear(audio, 3)
    assert ear.threads == [threading.current_thread()]


def test_an_expectation_that_is_replaced_before_its_turn_is_never_read(audio, source):
    source.gate.close()
    source.gate.reached.clear()
    audio.begin((1,))
    assert source.gate.reached.wait(timeout=10)
    audio.begin((2,))
    audio.begin((3,))
    source.gate.open()
    assert hear(audio, 3) == ["3"]
    assert source.read_positions == [(1,), (3,)]


def test_who_asks_listens_at_once_where_the_background_was_given_no_core(audio, source, ear):
    ear.gate.close()
    audio.begin((1,))
    wait_until_heard(ear)
    assert hear(audio, 1) == ["1"], "though the background is still at it"
    assert ear.threads[-1] is threading.current_thread()
    assert source.read_positions == [(1,)], "but reads nothing again"
    audio.begin((2,))
    ear.gate.open()
    assert hear(audio, 2) == ["2"], "what came late is not taken for what is asked for now"


def test_a_batch_without_a_usable_clip_says_so(audio, ear):
    audio.begin((SILENT,))
    batch = audio.hear((SILENT,))
    assert (batch.clips, batch.features) == ((), None)
    assert batch.quarantined == (Quarantined("99.wav", "is silent"),)
    assert ear.heard == []


def test_the_audio_is_measured(audio):
    assert audio.hear((1, 2)).audio_s == pytest.approx(1.0)


def test_what_fails_in_the_background_fails_for_who_asks_and_for_nobody_else(audio):
    audio.begin((BROKEN,))
    assert hear(audio, 1) == ["1"]
    audio.begin((BROKEN,))
    with pytest.raises(DataError, match="the disk is gone"):
        audio.hear((BROKEN,))
    assert hear(audio, 2) == ["2"]


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no threads that wait for an idle core")
@pytest.mark.parametrize("when_idle", [True, False])
def test_the_background_makes_way_for_others_only_where_it_is_told_to(source, ear, when_idle):
    hearing = HearingAhead(source, ear, when_idle=when_idle)
    hearing.begin((1,))
    wait_until_heard(ear)
    hearing.hear((1,))
    assert ear.policies[0] == (os.SCHED_IDLE if when_idle else os.SCHED_OTHER)
    assert os.sched_getscheduler(threading.get_native_id()) == os.SCHED_OTHER, "who asks is not held back"


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no threads that wait for an idle core")
def test_a_system_that_refuses_such_threads_is_named_and_listens_ahead_all_the_same(source, ear, monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    hearing = HearingAhead(source, ear, when_idle=True)
    hearing.begin((1,))
    wait_until_heard(ear)
    assert hear(hearing, 1) == ["1"]
    assert "may take cores from the learner" in caplog.text
