"""Keeps the actors busy with cursor batches, and hands the learner each update's rollouts.

An update trains on the next R batches of the audio stream, whoever captions them and in whatever order they come back;
a batch of which no clip can be used is skipped, and the one behind it moves up. That depends on the clips alone.

All batches of an update are scored by one reward model: that of its first batch, however often the model is swapped.

A batch may be asked for once its update lies at most `max_staleness` versions ahead of the policy: so the bound holds
by construction, and with 0 the run is synchronous.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from actors.audio_cursor import AudioCursor, CursorBatch
from actors.messages import RewardReference, RolloutInfo
from rlcap.algorithm.attendance import Attendance
from rlcap.errors import ActorLostError, DataError, RlcapError, in_one_line
from rlcap.types import Quarantined

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
"""How often one batch is asked for before the run gives up."""
POLL_S = 0.2
"""Longest uninterrupted wait, so that Ctrl-C is noticed."""


@dataclass(frozen=True, slots=True)
class CollectedBatch:
    """One cursor batch, captioned and scored; the rollouts stay in Ray's object store."""

    batch: CursorBatch
    reward: RewardReference
    """Of whom it was scored."""
    rollouts: ray.ObjectRef
    info: RolloutInfo


@dataclass(frozen=True, slots=True)
class _Task:
    """A batch to be captioned, and by whom it is to be scored."""

    batch: CursorBatch
    reward: RewardReference
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class _Request:
    task: _Task
    actor_id: int
    rollouts: ray.ObjectRef
    deadline: float


class RolloutPipeline:
    """Direct calls to caption actors; every request carries the weights it is to be answered with."""

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
    ) -> None:
        self._actors = actors
        self._attendance = Attendance(actors, timeout_s)
        self._cursor = cursor
        self._batches_per_update = batches_per_update
        self._max_staleness = max_staleness
        self._timeout_s = timeout_s
        self._check_interrupt = check_interrupt
        # One request ahead hides the way to the driver and back, but in synchronous mode nothing runs ahead.
        self._max_in_flight = 2 if max_staleness else 1
        self._in_flight: dict[ray.ObjectRef, _Request] = {}
        self._waiting: list[_Task] = []  # to be asked for again
        self._ready: dict[int, CollectedBatch] = {}
        self._awaited: list[int] = []  # batches asked for and neither handed out nor skipped, in stream order
        self._unusable: set[int] = set()  # positions of the batches skipped since a clip could be used
        self._quarantined: list[Quarantined] = []
        self._upcoming = cursor.next()
        self._update = 0
        self._version = 0
        self._weights: ray.ObjectRef | None = None
        self._reward = reward
        self._rewards: dict[int, RewardReference] = {}  # by update, from its first batch on
        self.num_lost = 0
        self.num_rescored = 0
        self.num_skipped = 0
        self.next_batch = self._upcoming.batch_index
        """The first batch of the stream that no update handed out so far has used."""

    def publish(self, policy_version: int, weights: ray.ObjectRef) -> None:
        """Answer all further requests with these weights."""
        self._version, self._weights = policy_version, weights

    def use_reward(self, reward: RewardReference) -> int:
        """Let this client score every update of which no batch has been asked for yet; returns the first of them."""
        self._reward = reward
        return max([*self._rewards], default=self._update - 1) + 1

    def collect(self, update: int) -> list[CollectedBatch]:
        """Wait for all batches of an update, in stream order; updates are asked for one after another.

        Raises:
            ActorLostError: one batch was lost `MAX_ATTEMPTS` times, or no actor came back.
            DataError: no clip of the source can be used.
            RlcapError: what an actor raised.
        """
        self._update = update
        while not self._has_update():
            self._send_strays_back()
            self._submit()
            self._receive()
            self._check_interrupt()
        handed_out = self._awaited[: self._batches_per_update]
        del self._awaited[: self._batches_per_update]
        self.next_batch = handed_out[-1] + 1
        self._rewards.pop(update, None)
        self._update += 1
        self._submit()  # the actors go on while the learner updates
        return [self._ready.pop(index) for index in handed_out]

    def take_quarantined(self) -> list[Quarantined]:
        """Return the clips of batches that were skipped since the last call."""
        taken, self._quarantined = self._quarantined, []
        return taken

    def _has_update(self) -> bool:
        found = self._ready_for_update()
        return len(found) == self._batches_per_update and len({batch.info.reward_version for batch in found}) == 1

    def _ready_for_update(self) -> list[CollectedBatch]:
        wanted = self._awaited[: self._batches_per_update]
        return [self._ready[index] for index in wanted if index in self._ready]

    def _send_strays_back(self) -> None:
        """Have batches scored again that moved up from behind a swap, when one before them was skipped."""
        found = self._ready_for_update()
        if len(found) < self._batches_per_update:
            return
        last = found[-1]
        for stray in found:
            if stray.info.reward_version != last.info.reward_version:
                self.num_rescored += 1
                del self._ready[stray.batch.batch_index]
                self._waiting.append(_Task(stray.batch, last.reward))

    def _submit(self) -> None:
        while (actor_id := self._idlest_actor()) is not None:
            if self._waiting:
                self._ask(actor_id, self._waiting.pop(0))
                continue
            update = self._update + len(self._awaited) // self._batches_per_update
            if update - self._version > self._max_staleness:
                return
            reward = self._rewards.setdefault(update, self._reward)
            self._ask(actor_id, _Task(self._upcoming, reward))
            self._awaited.append(self._upcoming.batch_index)
            self._upcoming = self._cursor.next()

    def _idlest_actor(self) -> int | None:
        load = Counter(request.actor_id for request in self._in_flight.values())
        actor_id = min(self._attendance.present, key=lambda each: (load[each], each), default=None)
        return actor_id if actor_id is not None and load[actor_id] < self._max_in_flight else None

    def _ask(self, actor_id: int, task: _Task) -> None:
        call = self._actors[actor_id].caption.options(num_returns=2)
        rollouts, info = call.remote(task.batch, self._version, self._weights, task.reward)
        self._in_flight[info] = _Request(task, actor_id, rollouts, self._deadline())

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_s * self._max_in_flight

    def _receive(self) -> None:
        self._attendance.look()
        open_calls = [*self._in_flight, *self._attendance.calls]
        if not open_calls:
            time.sleep(POLL_S)  # every actor is away
            return
        done, _ = ray.wait(open_calls, num_returns=1, timeout=POLL_S)
        for ref in done:
            if ref in self._in_flight:
                self._take(ref)
            else:
                self._attendance.hear(ref)
        self._restart_hung_actors()

    def _take(self, info_ref: ray.ObjectRef) -> None:
        request = self._in_flight.pop(info_ref)
        try:
            info = ray.get(info_ref)
        except RayActorError as lost:
            self._attendance.leave(request.actor_id)
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
            if info.num_captions:
                self._unusable.clear()
                task = request.task
                collected = CollectedBatch(task.batch, task.reward, request.rollouts, info)
                self._ready[task.batch.batch_index] = collected
            else:
                self._skip(request.task.batch, info)

    def _skip(self, batch: CursorBatch, info: RolloutInfo) -> None:
        self.num_skipped += 1
        log.warning("no clip of batch %d can be used; the next one takes its place", batch.batch_index)
        self._awaited.remove(batch.batch_index)
        self._quarantined += info.quarantined
        self._unusable.update(batch.positions)
        if len(self._unusable) == self._cursor.num_clips:
            one = info.quarantined[0]
            raise DataError(
                f"none of the {self._cursor.num_clips} clips that PPO hears can be used; the reason of {one.path}: "
                f"{one.reason}. `rlcap data check` tells those of the others"
            )

    def _ask_again(self, request: _Request, lost: Exception) -> None:
        self.num_lost += 1
        task = request.task
        log.warning("caption actor %d was lost; batch %d is sampled again", request.actor_id, task.batch.batch_index)
        if task.attempt >= MAX_ATTEMPTS:
            raise ActorLostError(
                f"batch {task.batch.batch_index} lost its caption actor {MAX_ATTEMPTS} times; "
                "see Ray's logs for why the actor dies (often memory)"
            ) from lost
        self._waiting.append(replace(task, attempt=task.attempt + 1))

    def _restart_hung_actors(self) -> None:
        now = time.monotonic()
        hung = {request.actor_id for request in self._in_flight.values() if request.deadline < now}
        for actor_id in hung:
            log.warning("caption actor %d gave no answer within %.0f s; restarting it", actor_id, self._timeout_s)
            ray.kill(self._actors[actor_id], no_restart=False)
        # Its requests fail a moment later: until then they must not cost the restarted actor its life as well.
        for info_ref, request in self._in_flight.items():
            if request.actor_id in hung:
                self._in_flight[info_ref] = replace(request, deadline=self._deadline())
