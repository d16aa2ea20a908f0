"""Who is asked for what next, over parts in a state that the test decides."""

from types import SimpleNamespace

import pytest

from actors.audio_cursor import AudioCursor
from rlcap.algorithm import in_flight, paces
from rlcap.algorithm.assignments import Assignments
from rlcap.algorithm.batch_window import BatchWindow
from rlcap.algorithm.in_flight import InFlight
from rlcap.algorithm.paces import LEAST_ANSWERS, NUM_ANSWERS, RECHECK
from rlcap.algorithm.ready_batches import CollectedBatch, ReadyBatches

BATCHES_PER_UPDATE = 3
USUAL, SLOW = 1, 2
DURATIONS_S = {USUAL: 1.0, SLOW: 10.0}


class Run:
    """A synchronous run of two actors, of which one is known to be slow, and a clock."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for module in (in_flight, paces):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.in_flight = InFlight(timeout_s=1000.0)
        self.ready = ReadyBatches(BATCHES_PER_UPDATE)
        self.assignments = Assignments(
            BatchWindow(AudioCursor(num_clips=20, batch_size=2, seed=0), BATCHES_PER_UPDATE),
            self.in_flight,
            self.ready,
            "reward 0",
            batches_per_update=BATCHES_PER_UPDATE,
            max_staleness=0,
            max_in_flight=1,
        )
        for actor_id, wall_s in DURATIONS_S.items():
            self.note(actor_id, wall_s, num_answers=LEAST_ANSWERS)

    def note(self, actor_id, wall_s, *, num_answers, num_captions=1):
        for _ in range(num_answers):
            self.assignments.note_answer(actor_id, SimpleNamespace(num_captions=num_captions, wall_s=wall_s))

    def ask(self):
        """Ask for what is chosen."""
        chosen = self.assignments.next([USUAL, SLOW], staleness=0)
        if chosen is not None:
            self.in_flight.add((chosen.actor_id, self.now), chosen.task, chosen.actor_id, "rollouts")
        return chosen

    def answer(self, chosen):
        """Let an actor answer at once."""
        request = self.in_flight.take((chosen.actor_id, self.now))
        self.in_flight.note_answer(request)
        self.ready.add(CollectedBatch(chosen.task.batch, chosen.task.reward, "rollouts", None, chosen.actor_id))


@pytest.fixture
def run(monkeypatch):
    return Run(monkeypatch)


def test_what_was_lost_goes_before_anything_new_and_not_to_a_slow_actor(run):
    lost = run.ask().task
    run.in_flight.drop_actor(USUAL)
    later = run.ask()
    run.assignments.repeat([lost])
    assert run.ask() is None, "the usual one is busy"
    run.answer(later)
    chosen = run.ask()
    assert (chosen.actor_id, chosen.task) == (USUAL, lost)


def test_a_slow_actor_for_which_there_is_no_work_shows_its_pace_now_and_then_by_a_copy_that_doubles_nothing(run):
    under_way = run.ask()
    assert run.ask() is None
    run.now = 1.01 * RECHECK * DURATIONS_S[SLOW]
    copy = run.ask()
    assert (copy.actor_id, copy.task) == (SLOW, under_way.task)
    assert not copy.is_double


def test_a_late_batch_is_doubled_once_even_if_the_double_is_there_before_it(run):
    run.answer(run.ask())
    late = run.ask()
    run.now = 10.0
    double = run.ask()
    assert (double.actor_id, double.task, double.is_double) == (SLOW, late.task, True)
    run.answer(double)
    assert run.ask() is None


def test_an_actor_that_was_lost_is_slow_no_more(run):
    run.ask()
    run.assignments.forget(SLOW)
    assert run.ask().actor_id == SLOW


def test_an_answer_without_captions_tells_nothing_of_an_actors_pace(run):
    run.ask()
    run.note(SLOW, 0.1, num_answers=NUM_ANSWERS, num_captions=0)
    assert run.ask() is None
