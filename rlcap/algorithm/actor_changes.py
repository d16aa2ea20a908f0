"""Wishes for more caption actors, or fewer, on their way to the training loop: RLlib bears no second thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from rlcap.errors import RlcapError


@dataclass(frozen=True, slots=True)
class ActorCounts:
    """The caption actors of a run."""

    num_present: int
    """Those that can be asked for work."""
    num_away: int
    """Those that have not started yet, or were lost and have not come back."""


@dataclass(frozen=True, slots=True)
class ActorChange:
    """So many actors are to join, and so many to leave."""

    add: int
    remove: int
    done: Future[ActorCounts] = field(default_factory=Future)


class ActorChanges:
    """Wishes of any thread, granted by one."""

    def __init__(self) -> None:
        self._wishes: SimpleQueue[ActorChange] = SimpleQueue()

    def ask(self, *, add: int, remove: int) -> Future[ActorCounts]:
        """Wish for a change; the result says how many actors there are then."""
        wish = ActorChange(add, remove)
        self._wishes.put(wish)
        return wish.done

    def grant(self, make: Callable[[ActorChange], ActorCounts]) -> None:
        """Make every change that was wished for; one that is refused goes back to who wished for it."""
        while (wish := self._next()) is not None:
            if not wish.done.set_running_or_notify_cancel():
                continue
            try:
                wish.done.set_result(make(wish))
            except RlcapError as refusal:
                wish.done.set_exception(refusal)

    def drop(self) -> None:
        """Cancel what nobody will grant any more."""
        while (wish := self._next()) is not None:
            wish.done.cancel()

    def _next(self) -> ActorChange | None:
        try:
            return self._wishes.get_nowait()
        except Empty:
            return None
