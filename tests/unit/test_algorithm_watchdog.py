import logging
import threading

from rlcap.algorithm.watchdog import Watchdog


class Described:
    """Counts how often it is asked, and says so to a test that waits."""

    def __init__(self):
        self.told = threading.Semaphore(0)
        self.num_times = 0

    def __call__(self):
        self.num_times += 1
        self.told.release()
        return ["caption actor 3 was asked for batch 17 90 s ago"]


def stand_still_in_this_function(described):
    assert described.told.acquire(timeout=10)


def test_a_stall_is_told_once_with_the_stack_of_the_thread_that_waits(caplog):
    described, progress = Described(), [0]
    watchdog = Watchdog(0.05, lambda: progress[0], described)
    with caplog.at_level(logging.WARNING), watchdog.watching():
        stand_still_in_this_function(described)
        assert not described.told.acquire(timeout=0.3), "once a stall"
        progress[0] += 1
        stand_still_in_this_function(described)
    watchdog.stop()
    assert described.num_times == 2
    text = caplog.text
    assert "nothing has moved for 0 s" in text
    assert "stand_still_in_this_function" in text
    assert "caption actor 3 was asked for batch 17" in text


def test_nothing_is_told_while_nobody_works_or_something_moves():
    described, counter = Described(), iter(range(10**9))
    watchdog = Watchdog(0.02, lambda: next(counter), described)
    with watchdog.watching():
        assert not described.told.acquire(timeout=0.15)
    still = Watchdog(0.02, lambda: 0, described)
    assert not described.told.acquire(timeout=0.15)
    watchdog.stop()
    still.stop()
    assert described.num_times == 0
