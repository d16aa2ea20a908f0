"""Keeps the actors busy with cursor batches, and hands the learner each update's rollouts.

An update trains on the next R batches of the audio stream, whoever captions them and in whatever order they come back;
a batch of which no clip can be used is skipped, and the one behind it moves up. That depends on the clips alone.

A batch may be asked for once its update lies at most `max_staleness` versions ahead of the policy: so the bound holds
by construction, and with 0 the run is synchronous.

What a batch becomes depends on its seed and the weights alone. So a batch that an actor holds back can be asked of an
idle one as well, and whichever answer comes first is used; and actors may come and go. Who is asked for what is chosen
in `assignments.py`; here it is asked for, received, and handed out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from actors.audio_cursor import AudioCursor
from actors.messages import RewardReference, RolloutInfo
from rlcap.algorithm.assignments import Assignment, Assignments
from rlcap.algorithm.attendance import Attendance
from rlcap.algorithm.batch_counts import BatchCounts
from rlcap.algorithm.batch_window import BatchWindow
from rlcap.algorithm.in_flight import InFlight, Request, Task
from rlcap.algorithm.ready_batches import CollectedBatch, ReadyBatches
from rlcap.algorithm.skipped_batches import SkippedBatches
from rlcap.errors import ActorLostError, RlcapError, RunError, in_one_line
from rlcap.types import Quarantined

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
"""How often one batch is asked for before the run gives up."""
POLL_S = 0.2
"""Longest uninterrupted wait, so that Ctrl-C is noticed."""
FEED_POLL_S = 0.02
"""The same while the learner updates, which must not wait long for the feeding to end."""


class RolloutPipeline:
    """Direct calls to caption actors; every request carries the weights it is to be answered with.

    Methods may be called from any thread.
    """

    def __init__(
        self,
        actors: Mapping[int, ActorHandle],
        cursor: AudioCursor,
        reward: RewardReference,
        *,
        batches_per_update: int,
        max_staleness: int,
        timeout_s: float,
        check_interrupt: Callable[[], None],
        first_update: int,
        counts: BatchCounts,
    ) -> None:
        self._actors = dict(actors)
        self._attendance = Attendance(self._actors, timeout_s)
        self._window = BatchWindow(cursor, batches_per_update)
        self._batches_per_update = batches_per_update
        self._max_staleness = max_staleness
        self._timeout_s = timeout_s
        self._check_interrupt = check_interrupt
        # One request ahead hides the way to the driver and back, but in synchronous mode nothing runs ahead.
        self._max_in_flight = 2 if max_staleness else 1
        self._lock = threading.RLock()  # held whenever what follows is read or changed, never while waiting
        self._in_flight = InFlight(timeout_s * self._max_in_flight)
        self._ready = ReadyBatches(batches_per_update)
        self._assignments = Assignments(
            self._window,
            self._in_flight,
            self._ready,
            reward,
            batches_per_update=batches_per_update,
            max_staleness=max_staleness,
            max_in_flight=self._max_in_flight,
        )
        self._skipped = SkippedBatches(cursor.num_clips)
        self._num_answers = 0
        self._update = first_update
        self._version = first_update
        self._weights: ray.ObjectRef | None = None
        self.counts = counts

    @property
    def next_batch(self) -> int:
        """The first batch of the stream that no update handed out so far has used."""
        return self._window.next_batch

    def publish(self, policy_version: int, weights: ray.ObjectRef) -> None:
        """Answer all further requests with these weights."""
        with self._lock:
            self._version, self._weights = policy_version, weights

    def use_reward(self, reward: RewardReference) -> int:
        """Let this client score every update of which no batch has been asked for yet; returns the first of them."""
        with self._lock:
            return self._update + self._assignments.use_reward(reward)

    @property
    def present(self) -> list[int]:
        """Actors that can be asked for work."""
        with self._lock:
            return self._attendance.present

    @property
    def num_answers(self) -> int:
        """Calls that were answered so far, or failed: it grows as long as something moves."""
        return self._num_answers

    def describe(self) -> list[str]:
        """Say of each actor what it was asked for and how long ago."""
        with self._lock:
            asked = self._in_flight.describe()
            away = sorted(set(self._actors) - set(self._attendance.present))
        return asked + [f"caption actor {actor_id} has not started, or was lost and is not back" for actor_id in away]

    def add_actors(self, actors: Mapping[int, ActorHandle]) -> None:
        """Let further actors join; each is asked for work once it has answered a call."""
        with self._lock:
            self._actors |= actors
            for actor_id in actors:
                self._attendance.expect(actor_id)

    def remove_actors(self, num_actors: int) -> list[int]:
        """Forget some actors, those that are away first; others are asked for what they were at.

        Returns their numbers; the caller ends their processes. Raises RunError where none would be left.
        """
        with self._lock:
            if num_actors >= len(self._actors):
                raise RunError(f"the run has {len(self._actors)} caption actors and cannot do without the last")
            present = self._attendance.present
            leaving = sorted(self._actors, key=lambda each: (each in present, -each))[:num_actors]
            for actor_id in leaving:
                self._let_go(actor_id)
            return leaving

    def collect(self, update: int) -> list[CollectedBatch]:
        """Wait for all batches of an update, in stream order; updates are asked for one after another.

        Raises:
            ActorLostError: one batch was lost `MAX_ATTEMPTS` times, or no actor came back.
            DataError: no clip of the source can be used.
            RlcapError: what an actor raised.
        """
        self._update = update
        while (found := self._hand_out()) is None:
            self._receive(POLL_S)
            self._check_interrupt()
        return found

    def ask_ahead(self) -> None:
        """Ask for what may be asked for by now; `collect` does so as well."""
        with self._lock:
            self._submit()

    def take_back(self, batches: Sequence[CollectedBatch], lost: Collection[int]) -> None:
        """Take back the update that was handed out last, of which the rollouts at these places were lost."""
        with self._lock:
            self._update -= 1
            self._assignments.take_back([batch.batch.batch_index for batch in batches], batches[0].reward)
            for place, batch in enumerate(batches):
                if place in lost:
                    self.counts.lost += 1
                    self._assignments.repeat([Task(batch.batch, batch.reward)])
                else:
                    self._ready.add(batch)

    @contextmanager
    def feeding(self) -> Iterator[None]:
        """Keep the actors busy while the caller does something else; in synchronous mode there is nothing to do."""
        if not self._max_staleness:
            yield
            return
        done = threading.Event()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed-actors") as executor:
            fed = executor.submit(self._feed, done)
            try:
                yield
            finally:
                done.set()
        fed.result()

    def take_quarantined(self) -> list[Quarantined]:
        """Return the clips of batches that were skipped since the last call."""
        with self._lock:
            return self._skipped.take_quarantined()

    def _feed(self, done: threading.Event) -> None:
        while not done.is_set():
            self._receive(FEED_POLL_S)
            with self._lock:
                self._submit()

    def _hand_out(self) -> list[CollectedBatch] | None:
        """Return an update's batches once all are there; until then, ask for what may be asked for."""
        with self._lock:
            wanted = self._window.wanted
            strays = self._ready.take_strays(wanted)
            self.counts.rescored += len(strays)
            self._assignments.repeat(strays)
            found = self._ready.take(wanted)
            if found is None:
                self._submit()
                return None
            for batch in found:
                assert 0 <= self._update - batch.info.policy_version <= self._max_staleness, "the bound on staleness"
            self._assignments.hand_out()
            self._update += 1
            self._submit()  # the actors go on while the learner updates
            return found

    def _submit(self) -> None:
        present = self._attendance.present
        while (chosen := self._assignments.next(present, staleness=self._update - self._version)) is not None:
            self._ask(chosen)
        num_updates = self._max_staleness + 1
        assert len(self._in_flight) <= self._max_in_flight * len(self._actors), "work in flight is bounded"
        assert self._window.num_asked <= num_updates * self._batches_per_update, "and so is what lies ready"

    def _ask(self, chosen: Assignment) -> None:
        task = chosen.task
        call = self._actors[chosen.actor_id].caption.options(num_returns=2)
        rollouts, info = call.remote(task.batch, self._version, self._weights, task.reward, chosen.upcoming)
        self._in_flight.add(info, task, chosen.actor_id, rollouts)
        self.counts.doubled += chosen.is_double

    def _receive(self, poll_s: float) -> None:
        with self._lock:
            self._attendance.look()
            open_calls = [*self._in_flight.refs, *self._attendance.calls]
        if not open_calls:
            time.sleep(poll_s)  # every actor is away
            return
        done, _ = ray.wait(open_calls, num_returns=1, timeout=poll_s)
        with self._lock:
            self._num_answers += len([ref for ref in done if ref in self._in_flight])
            for ref in done:
                if ref in self._in_flight:
                    self._take(ref)
                else:
                    self._attendance.hear(ref)
            self._restart_hung_actors()

    def _take(self, info_ref: ray.ObjectRef) -> None:
        request = self._in_flight.take(info_ref)
        try:
            info = ray.get(info_ref)
        except RayActorError as lost:
            self._attendance.leave(request.actor_id)
            self._assignments.forget(request.actor_id)
            if self._assignments.is_open(request.task):
                self._ask_again(request, lost)
        except RayTaskError as failed:
            cause = failed.cause
            if isinstance(cause, RlcapError):
                raise cause from failed
            log.exception("a caption actor failed")
            raise RlcapError(
                f"a caption actor failed on batch {request.task.batch.batch_index}: {type(cause).__name__}: "
                f"{in_one_line(cause)}"
            ) from None
        else:
            self._in_flight.note_answer(request)
            self._assignments.note_answer(request.actor_id, info)
            if self._assignments.is_open(request.task):
                self._keep(request, info)

    def _let_go(self, actor_id: int) -> None:
        del self._actors[actor_id]
        self._attendance.forget(actor_id)
        self._assignments.forget(actor_id)
        for task in self._in_flight.drop_actor(actor_id):
            if self._assignments.is_open(task) and not self._in_flight.holds(task.batch.batch_index):
                self._assignments.repeat([task])

    def _keep(self, request: Request, info: RolloutInfo) -> None:
        task = request.task
        if info.num_captions:
            self._skipped.note_usable()
            self._ready.add(CollectedBatch(task.batch, task.reward, request.rollouts, info, request.actor_id))
        else:
            self.counts.skipped += 1
            self._window.skip(task.batch.batch_index)
            self._skipped.add(task.batch, info)

    def _ask_again(self, request: Request, lost: Exception) -> None:
        self.counts.lost += 1
        task = request.task
        index = task.batch.batch_index
        if self._in_flight.holds(index):
            log.warning("caption actor %d was lost; batch %d comes from another", request.actor_id, index)
            return
        log.warning("caption actor %d was lost; batch %d is sampled again", request.actor_id, index)
        if task.attempt >= MAX_ATTEMPTS:
            raise ActorLostError(
                f"batch {index} lost its caption actor {MAX_ATTEMPTS} times; "
                "see Ray's logs for why the actor dies (often memory)"
            ) from lost
        self._assignments.repeat([replace(task, attempt=task.attempt + 1)])

    def _restart_hung_actors(self) -> None:
        for actor_id in self._in_flight.hung():
            log.warning("caption actor %d gave no answer within %.0f s; restarting it", actor_id, self._timeout_s)
            ray.kill(self._actors[actor_id], no_restart=False)
