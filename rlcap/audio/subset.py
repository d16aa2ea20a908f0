"""Views of a part of a source, and the part that a stage may see."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from rlcap.audio.source import RecordedSource
from rlcap.config.data import DataConfig, Split
from rlcap.errors import DataError
from rlcap.types import Clip


class Subset(RecordedSource):
    """The clips of `source` at `positions`, in that order."""

    def __init__(self, source: RecordedSource, positions: Int64[np.ndarray, " position"]) -> None:
        super().__init__(source.records.take(positions), source.left_out)
        self._source = source
        self._positions = positions

    def clip(self, position: int) -> Clip:
        """Decode the clip at `position` of the view; raises ClipError and IndexError."""
        if not 0 <= position < len(self):
            raise IndexError(f"position must lie in [0, {len(self)}), got {position}")
        return self._source.clip(int(self._positions[position]))


def select_split(source: RecordedSource, config: DataConfig, split: Split) -> RecordedSource:
    """Return the clips that belong to a split: all of them where `split_column` is empty.

    A split that `splits` does not list takes the rows that hold its own name.

    Raises:
        DataError: no clip belongs to the split.
    """
    if not config.split_column:
        return source
    values = config.splits.get(split.value, [split.value])
    positions = source.records.positions_in_splits(values)
    if not len(positions):
        found = ", ".join(map(repr, source.records.splits()[:20]))
        raise DataError(
            f"no clip belongs to the split {split.value}: data.splits.{split.value} asks for "
            f"{', '.join(map(repr, values))} in column {config.split_column!r}, which holds {found}"
        )
    return Subset(source, positions)
