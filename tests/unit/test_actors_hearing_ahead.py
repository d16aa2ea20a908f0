"""Batches that are decoded before they are asked for, by a source that bears one thread at a time."""

import threading

import pytest

from actors.reading_ahead import ReadingAhead
from rlcap.errors import DataError


class CountingSource:
    """Notes what is read, and lets a reader wait where the test holds the gate closed."""

    def __init__(self):
        self.read_positions = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self._one_at_a_time = threading.Lock()

    def read(self, positions):
        assert self._one_at_a_time.acquire(blocking=False), "two threads read at once"
        self.read_positions.append(positions)
        self.begun.set()
        assert self.gate.wait(timeout=10)
        self._one_at_a_time.release()
        if 13 in positions:
            raise DataError("the disk is gone")
        return [f"clip {position}" for position in positions], []


def test_a_batch_that_was_begun_in_time_is_read_once_and_in_the_background():
    source = CountingSource()
    audio = ReadingAhead(source)
    audio.begin((1, 2))
    assert source.begun.wait(timeout=10), "before anybody asks for it"
    assert audio.read((1, 2)) == (["clip 1", "clip 2"], [])
    assert source.read_positions == [(1, 2)]
    assert audio.read((1, 2)) == (["clip 1", "clip 2"], [])
    assert source.read_positions == [(1, 2), (1, 2)], "nothing is kept that was handed out"


def test_a_wrong_expectation_costs_time_and_changes_nothing():
    source = CountingSource()
    audio = ReadingAhead(source)
    audio.begin((1, 2))
    assert audio.read((3,)) == (["clip 3"], [])
    assert audio.read((4,)) == (["clip 4"], [])
    assert source.read_positions[-2:] == [(3,), (4,)]


def test_an_expectation_that_is_replaced_before_its_turn_is_never_read():
    source = CountingSource()
    source.gate.clear()
    audio = ReadingAhead(source)
    audio.begin((1,))
    assert source.begun.wait(timeout=10)
    audio.begin((2,))
    audio.begin((3,))
    source.gate.set()
    assert audio.read((3,)) == (["clip 3"], [])
    assert source.read_positions == [(1,), (3,)]


def test_what_fails_in_the_background_fails_for_who_asks_and_for_nobody_else():
    audio = ReadingAhead(CountingSource())
    audio.begin((13,))
    assert audio.read((1,)) == (["clip 1"], [])
    audio.begin((13,))
    with pytest.raises(DataError, match="the disk is gone"):
        audio.read((13,))
    assert audio.read((2,)) == (["clip 2"], [])
