"""Which batches of the audio stream may be asked for, and by which actor each is likely to be captioned.

An update trains on the next R batches of the stream; one that is skipped lets those behind it move up. What an actor
will probably be asked for next is known while it is still at work, so that it can decode ahead. That is an expectation
and no promise: a batch that the run waits for goes to whoever is free.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from actors.audio_cursor import AudioCursor, CursorBatch


class BatchWindow:
    """The stream from the update that is being collected on."""

    def __init__(self, cursor: AudioCursor, batches_per_update: int) -> None:
        self._cursor = cursor
        self._size = batches_per_update
        self._upcoming = cursor.next()
        self._indices: list[int] = []  # neither handed out nor skipped, in stream order, asked for or not
        self._unasked: dict[int, CursorBatch] = {}  # those not asked for, in stream order
        self._furthest = -1  # the last one asked for
        self._expected: dict[int, CursorBatch] = {}  # by actor
        self.next_batch = self._upcoming.batch_index
        """The first batch of the stream that no update handed out so far has used."""

    @property
    def wanted(self) -> list[int]:
        """Numbers of the batches of the next update to be handed out, as far as they are known."""
        return self._indices[: self._size]

    @property
    def num_asked(self) -> int:
        """Batches that were asked for, and are neither handed out nor skipped."""
        return len(self._indices) - len(self._unasked)

    def holds(self, batch_index: int) -> bool:
        """Tell whether a batch is still to be handed out."""
        place = bisect_left(self._indices, batch_index)
        return place < len(self._indices) and self._indices[place] == batch_index

    def take(self, actor_id: int, num_updates: int, *, is_idle: bool) -> tuple[CursorBatch, int] | None:
        """Return a batch of the next `num_updates` updates for an actor, and in how many updates it is used.

        None where all of them were asked for, or are expected of others and this actor has something to do.
        """
        last = self._last(num_updates)
        first = next(iter(self._unasked), last + 1)
        if first > last:
            return None
        chosen = self._choose(actor_id, first, last, is_idle=is_idle)
        if chosen is None:
            return None
        self._furthest = max(self._furthest, chosen)
        return self._unasked.pop(chosen), self._ahead(chosen)

    def take_last(self, num_updates: int, least_ahead: int) -> tuple[CursorBatch, int] | None:
        """Return the last batch of the next `num_updates` updates, and in how many updates it is used.

        None where it was asked for, or is used in fewer updates than `least_ahead`.
        """
        last = self._last(num_updates)
        chosen = next((index for index in reversed(self._unasked) if index <= last), None)
        if chosen is None or self._ahead(chosen) < least_ahead:
            return None
        return self._unasked.pop(chosen), self._ahead(chosen)

    def expect(self, actor_id: int) -> CursorBatch:
        """Return the batch that an actor is likely to be asked for next."""
        own = self._expected.get(actor_id)
        if own is not None and own.batch_index in self._unasked:
            return own
        taken = {batch.batch_index for batch in self._expected.values()}
        found = next((batch for index, batch in self._unasked.items() if index not in taken), None)
        self._expected[actor_id] = self._extend() if found is None else found
        return self._expected[actor_id]

    def forget(self, actor_id: int) -> None:
        """Expect nothing of an actor that was lost."""
        self._expected.pop(actor_id, None)

    def skip(self, batch_index: int) -> None:
        """Let the batches behind one move up."""
        self._indices.remove(batch_index)

    def hand_out(self) -> list[int]:
        """Let go of the batches of an update, and return their numbers."""
        handed_out = self.wanted
        del self._indices[: self._size]
        self.next_batch = handed_out[-1] + 1
        return handed_out

    def take_back(self, batch_indices: Sequence[int]) -> None:
        """Let the batches of the update that was handed out last be handed out again."""
        self._indices[:0] = batch_indices
        self.next_batch = batch_indices[0]

    def _choose(self, actor_id: int, first: int, last: int, *, is_idle: bool) -> int | None:
        """Prefer what this actor has decoded already, then what no other has, unless the first batch would wait."""
        if self._furthest - first > 2 * len(self._expected):
            return first
        own = self._expected.get(actor_id)
        if own is not None and own.batch_index in self._unasked and own.batch_index <= last:
            return own.batch_index
        taken = {batch.batch_index for batch in self._expected.values()}
        free = next((index for index in self._unasked if index not in taken), last + 1)
        if free <= last:
            return free
        return first if is_idle else None

    def _last(self, num_updates: int) -> int:
        """Number of the last batch of the next `num_updates` updates."""
        while len(self._indices) < num_updates * self._size:
            self._extend()
        return self._indices[num_updates * self._size - 1] if num_updates > 0 else -1

    def _ahead(self, batch_index: int) -> int:
        return bisect_left(self._indices, batch_index) // self._size

    def _extend(self) -> CursorBatch:
        batch = self._upcoming
        self._indices.append(batch.batch_index)
        self._unasked[batch.batch_index] = batch
        self._upcoming = self._cursor.next()
        return batch
