"""What the sources of recordings share: records by position, and one bad clip never stops the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from rlcap.audio.left_out import NOTHING, LeftOut
from rlcap.audio.records import ClipRecord, ClipTable
from rlcap.errors import ClipError
from rlcap.types import Clip, Quarantined


class RecordedSource(ABC):
    """An `AudioSource` that knows of each clip what its table says, without decoding it.

    Sources hold tables and offsets, never the audio, and can be pickled to another process of the same file system.
    """

    def __init__(self, records: ClipTable, left_out: LeftOut = NOTHING) -> None:
        self.records = records
        self.left_out = left_out

    def __len__(self) -> int:
        return len(self.records)

    def record(self, position: int) -> ClipRecord:
        """Return what is known of the clip at `position`.

        Raises:
            IndexError: there is no such position.
        """
        return self.records[position]

    def read(self, positions: Sequence[int]) -> tuple[list[Clip], list[Quarantined]]:
        """Decode these positions, in order; those that cannot be used come back as quarantined."""
        clips: list[Clip] = []
        quarantined: list[Quarantined] = []
        for position in positions:
            try:
                clips.append(self.clip(position))
            except ClipError as error:
                quarantined.append(Quarantined(self.records[position].path, str(error)))
        return clips, quarantined

    @abstractmethod
    def clip(self, position: int) -> Clip:
        """Decode the clip at `position`.

        Raises:
            ClipError: it cannot be used.
            IndexError: there is no such position.
        """
