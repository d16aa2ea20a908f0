"""Which caption actors can be asked for work: one that is new, or was lost, counts once it answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from rlcap.errors import ActorLostError, in_one_line

log = logging.getLogger(__name__)

PAUSE_S = 0.5
"""Between two looks at an actor that is away; Ray takes seconds to restart one, and fails all calls meanwhile."""


class Attendance:
    """Keeps a call open to every actor that is away; its answer is the sign that the actor is back."""

    def __init__(self, actors: Mapping[int, ActorHandle], timeout_s: float) -> None:
        self._actors = actors
        self._timeout_s = timeout_s
        self._next_look: dict[int, float] = {}  # by actor that is away and has no call open
        self._calls: dict[ray.ObjectRef, int] = {}
        self._joining: set[int] = set()  # actors that have never answered, nor failed to
        self._last_heard = time.monotonic()

    @property
    def present(self) -> list[int]:
        """Actors that are not known to be away."""
        away = {*self._next_look, *self._calls.values()}
        return [actor_id for actor_id in self._actors if actor_id not in away]

    @property
    def calls(self) -> Sequence[ray.ObjectRef]:
        """Open calls, for `ray.wait`; those that are done go to `hear`."""
        return list(self._calls)

    def leave(self, actor_id: int) -> None:
        """Note that an actor was lost."""
        if actor_id in self.present:
            self._next_look[actor_id] = time.monotonic()

    def expect(self, actor_id: int) -> None:
        """Count on a new actor as soon as it answers, however late that is."""
        self._joining.add(actor_id)
        self._next_look[actor_id] = time.monotonic()

    def forget(self, actor_id: int) -> None:
        """Call an actor that has left no more."""
        self._joining.discard(actor_id)
        self._next_look.pop(actor_id, None)
        self._calls = {call: each for call, each in self._calls.items() if each != actor_id}

    def look(self) -> None:
        """Call the actors that are away.

        Raises:
            ActorLostError: no actor has been there for too long.
        """
        now = time.monotonic()
        if self.present:
            self._last_heard = now
        elif now - self._last_heard > self._timeout_s:
            raise ActorLostError(
                f"no caption actor came back within {self._timeout_s:.0f} s; see Ray's logs for why they die (often "
                "memory), or set cluster.rollout_timeout_s"
            )
        for actor_id in [each for each, due in self._next_look.items() if due <= now]:
            del self._next_look[actor_id]
            self._calls[self._actors[actor_id].ping.remote()] = actor_id

    def hear(self, call: ray.ObjectRef) -> None:
        """Take the answer to a call, or its failure; calls to actors that have left mean nothing."""
        actor_id = self._calls.pop(call, None)
        if actor_id is None:
            return
        try:
            ray.get(call)
        except RayActorError as failure:
            self._next_look[actor_id] = time.monotonic() + PAUSE_S
            if actor_id in self._joining:
                log.warning("caption actor %d did not start yet: %s", actor_id, in_one_line(failure))
        else:
            if actor_id in self._joining:
                log.info("caption actor %d has joined", actor_id)
        self._joining.discard(actor_id)
