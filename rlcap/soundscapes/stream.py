"""The synthetic world as a source of clips."""

from __future__ import annotations

from collections.abc import Sequence

from rlcap.soundscapes.scene import Scene
from rlcap.soundscapes.world import render, scene_of
from rlcap.types import Clip, Quarantined

ENDLESS = 2**62
"""Length of a source without an end."""


class SoundscapeSource:
    """Clips `first` to `first + size` of world `seed`, synthesised when read; an `AudioSource`."""

    def __init__(self, seed: int, first: int = 0, size: int | None = None) -> None:
        if seed < 0 or first < 0 or (size is not None and size < 0):
            raise ValueError(f"seed, first and size must be 0 or more, got {seed}, {first}, {size}")
        self._seed = seed
        self._first = first
        self._size = ENDLESS if size is None else size

    def __len__(self) -> int:
        return self._size

    def read(self, positions: Sequence[int]) -> tuple[list[Clip], list[Quarantined]]:
        """Synthesise these clips, in order; nothing is ever quarantined."""
        return [render(self._seed, self._index(position))[0] for position in positions], []

    def scene(self, position: int) -> Scene:
        """What happens in the clip at `position`, without synthesising it."""
        return scene_of(self._seed, self._index(position))

    def _index(self, position: int) -> int:
        if not 0 <= position < self._size:
            raise IndexError(f"position must lie in [0, {self._size}), got {position}")
        return self._first + position
