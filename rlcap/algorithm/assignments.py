"""Who is asked for what next, and by which reward model it is to be scored.

What was lost goes first, then what comes next in the stream and may be asked for already. An actor that finds nothing
left gets a copy of what the update waits for. One that is slow beside the others gets only what they can do without
until it is done.

All batches of an update are scored by one reward model: that of its first batch, however often the model is swapped.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actors.audio_cursor import CursorBatch
from actors.messages import RewardReference, RolloutInfo
from rlcap.algorithm.batch_window import BatchWindow
from rlcap.algorithm.in_flight import InFlight, Task
from rlcap.algorithm.paces import Paces
from rlcap.algorithm.ready_batches import ReadyBatches


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one actor is to be asked for."""

    actor_id: int
    task: Task
    upcoming: CursorBatch
    """What it will probably be asked for after that."""
    is_double: bool = False
    """Another actor is late with the same batch, and the update waits for it."""


class Assignments:
    """Chooses by what is in flight, by what lies ready and by how fast each actor is; the caller does the asking."""

    def __init__(
        self,
        window: BatchWindow,
        in_flight: InFlight,
        ready: ReadyBatches,
        reward: RewardReference,
        *,
        batches_per_update: int,
        max_staleness: int,
        max_in_flight: int,
    ) -> None:
        self._window = window
        self._in_flight = in_flight
        self._ready = ready
        self._reward = reward
        self._batches_per_update = batches_per_update
        self._max_staleness = max_staleness
        self._max_in_flight = max_in_flight  # of each actor
        self._paces = Paces()
        self._waiting: list[Task] = []  # to be asked for again
        self._pinned_rewards: deque[RewardReference] = deque()  # of the next updates, up to the last one begun

    def use_reward(self, reward: RewardReference) -> int:
        """Let this client score every update of which no batch was chosen yet; returns how many updates come before."""
        self._reward = reward
        return len(self._pinned_rewards)

    def next(self, present: Sequence[int], *, staleness: int) -> Assignment | None:
        """Choose something for one of these actors, the idlest first; None where there is nothing for any of them.

        `staleness` is how many versions the next update to be handed out is ahead of the policy.
        """
        load, slow = self._in_flight.loads(), self._paces.slow(present)
        num_updates = self._max_staleness + 1 - staleness
        for actor_id in sorted(present, key=lambda each: (load[each], each)):
            if load[actor_id] >= self._max_in_flight:
                return None
            is_idle = not load[actor_id]
            if actor_id in slow:
                # One batch more of each, for those who run out of work before the last does.
                chosen = self._for_slow(actor_id, num_updates, slow[actor_id] + len(present)) if is_idle else None
            else:
                chosen = self._for_usual(actor_id, num_updates, is_idle=is_idle)
            if chosen is not None:
                return chosen
        return None

    def repeat(self, tasks: Iterable[Task]) -> None:
        """Have these asked for again, before anything new."""
        self._waiting += tasks

    def is_open(self, task: Task) -> bool:
        """Tell whether an answer is still of use: another actor may have given it before."""
        index = task.batch.batch_index
        waits = any(other.batch.batch_index == index for other in self._waiting)
        return self._window.holds(index) and index not in self._ready and not waits

    def note_answer(self, actor_id: int, info: RolloutInfo) -> None:
        """Learn how fast an actor is."""
        if info.num_captions:
            self._paces.note(actor_id, info.wall_s)

    def forget(self, actor_id: int) -> None:
        """Know and expect nothing of an actor that was lost or has left."""
        self._window.forget(actor_id)
        self._paces.forget(actor_id)

    def hand_out(self) -> None:
        """Let go of the next update."""
        self._window.hand_out()
        self._pinned_rewards.popleft()

    def take_back(self, batch_indices: Sequence[int], reward: RewardReference) -> None:
        """Let the update that was handed out last be the next again, scored by the same model."""
        self._window.take_back(batch_indices)
        self._pinned_rewards.appendleft(reward)

    def _for_usual(self, actor_id: int, num_updates: int, *, is_idle: bool) -> Assignment | None:
        if self._waiting:
            return self._assign(actor_id, self._waiting.pop(0))
        taken = self._window.take(actor_id, num_updates, is_idle=is_idle)
        if taken is not None:
            return self._assign(actor_id, self._pinned(*taken))
        return self._double(actor_id) if is_idle else None

    def _for_slow(self, actor_id: int, num_updates: int, num_meanwhile: float) -> Assignment | None:
        """What it can finish before the others have to wait for it: they finish so many batches meanwhile.

        They have work until all is done that may be asked for before the update with this batch is handed out.
        """
        num_meanwhile_updates = math.ceil((len(self._ready) + num_meanwhile) / self._batches_per_update)
        taken = self._window.take_last(num_updates, least_ahead=num_meanwhile_updates - self._max_staleness - 1)
        if taken is not None:
            return self._assign(actor_id, self._pinned(*taken))
        return self._double(actor_id) or self._recheck(actor_id)

    def _double(self, actor_id: int) -> Assignment | None:
        """What holds the update back, for an actor that has nothing to do; each batch is doubled once at most."""
        task = self._in_flight.late({index for index in self._window.wanted if index not in self._ready})
        return None if task is None else self._assign(actor_id, task, is_double=True)

    def _recheck(self, actor_id: int) -> Assignment | None:
        """What tells an actor's pace, where that was learned long ago; nothing waits for the answer."""
        task = self._in_flight.latest() if self._paces.is_old(actor_id) else None
        return None if task is None else self._assign(actor_id, task)

    def _pinned(self, batch: CursorBatch, ahead: int) -> Task:
        """Make a task, and let whoever scores now score all updates up to that of the batch."""
        while len(self._pinned_rewards) <= ahead:
            self._pinned_rewards.append(self._reward)
        return Task(batch, self._pinned_rewards[ahead])

    def _assign(self, actor_id: int, task: Task, *, is_double: bool = False) -> Assignment:
        return Assignment(actor_id, task, self._window.expect(actor_id), is_double)
