"""Who is asked for what next, over parts in a state that the test decides."""

from types import SimpleNamespace

import pytest

from actors.audio_cursor import AudioCursor
from rlcap.algorithm import in_flight, paces
from rlcap.algorithm.assignments import Assignments
from rlcap.algorithm.batch_window import BatchWindow
from rlcap.algorithm.in_flight import InFlight
from rlcap.algorithm.paces import LEAST_ANSWERS, RECHECK
from rlcap.algorithm.ready_batches import ReadyBatches

BATCHES_PER_UPDATE = 2
USUAL, SLOW = 1, 2
DURATIONS_S = {USUAL: 1.0, SLOW: 10.0}


class Run:
    """Two actors of which one is known to be slow, and a clock."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for module in (in_flight, paces):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.in_flight = InFlight(timeout_s=1000.0)
        self.assignments = Assignments(
            BatchWindow(AudioCursor(num_clips=20, batch_size=2, seed=0), BATCHES_PER_UPDATE),
            self.in_flight,
            ReadyBatches(BATCHES_PER_UPDATE),
            "reward 0",
            batches_per_update=BATCHES_PER_UPDATE,
            max_staleness=0,
            max_in_flight=1,
        )
        for actor_id, wall_s in DURATIONS_S.items():
            for _ in range(LEAST_ANSWERS):
                self.assignments.note_answer(actor_id, SimpleNamespace(num_captions=1, wall_s=wall_s))

    def ask(self, *present):
        """Ask for what is chosen."""
        chosen = self.assignments.next(present, staleness=0)
        if chosen is not None:
            self.in_flight.add(f"info {self.now} {chosen.actor_id}", chosen.task, chosen.actor_id, "rollouts")
        return chosen


@pytest.fixture
def run(monkeypatch):
    return Run(monkeypatch)


def test_what_was_lost_goes_before_anything_new_and_never_to_a_slow_actor(run):
    lost = run.ask(USUAL).task
    assert run.in_flight.drop_actor(USUAL) == [lost]
    run.assignments.repeat([lost])
    assert run.ask(SLOW) is None
    assert run.ask(USUAL).task == lost


def test_a_slow_actor_for_which_there_is_no_work_shows_its_pace_now_and_then_by_a_copy_that_doubles_nothing(run):
    run.ask(USUAL)
    assert run.ask(SLOW) is None
    run.now = 1.01 * RECHECK * DURATIONS_S[SLOW]
    copy = run.ask(SLOW)
    assert copy.task.batch.batch_index == 0
    assert not copy.is_double
