"""Batches of which no clip could be used: what becomes of their clips, and when that holds of every clip there is."""

from __future__ import annotations

import logging

from actors.audio_cursor import CursorBatch
from actors.messages import RolloutInfo
from rlcap.errors import DataError
from rlcap.types import Quarantined

log = logging.getLogger(__name__)


class SkippedBatches:
    """The quarantined clips of skipped batches, and the clips skipped since one could be used."""

    def __init__(self, num_clips: int) -> None:
        self._num_clips = num_clips
        self._unusable: set[int] = set()  # positions
        self._quarantined: list[Quarantined] = []

    def add(self, batch: CursorBatch, info: RolloutInfo) -> None:
        """Note a batch. Raises DataError where no clip of the source was of use since the last one that was."""
        log.warning("no clip of batch %d can be used; the next one takes its place", batch.batch_index)
        self._quarantined += info.quarantined
        self._unusable.update(batch.positions)
        if len(self._unusable) == self._num_clips:
            one = info.quarantined[0]
            raise DataError(
                f"none of the {self._num_clips} clips that PPO hears can be used; the reason of {one.path}: "
                f"{one.reason}. `rlcap data check` tells those of the others"
            )

    def note_usable(self) -> None:
        """Note that a clip could be used."""
        self._unusable.clear()

    def take_quarantined(self) -> list[Quarantined]:
        """Return the clips that were added since the last call."""
        taken, self._quarantined = self._quarantined, []
        return taken
