"""How torch's threads compute: how many there are, and in which order they sum."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import deterministic

_deterministic: Any = deterministic  # torch gives its attribute no type


@contextmanager
def limited_threads(num_threads: int) -> Iterator[None]:
    """Compute with this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_algorithms(device: torch.device) -> Iterator[None]:
    """Let a CPU's threads sum in a fixed order inside the block, so that a backward pass gives the same bits again.

    Otherwise the gradient of `values[rows]`, where a row is read more than once, is added up by several threads in the
    order in which they come, which varies on a busy machine. An operation of which torch has no deterministic version
    warns, and runs as it is. Other devices are left alone: there deterministic versions are slow, or missing.
    """
    if device.type != "cpu":
        yield
        return
    _switch.enter()
    try:
        yield
    finally:
        _switch.leave()


class _DeterministicMode:
    """torch has one mode for all threads of a process: the first to enter sets it, the last to leave resets it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_inside = 0
        self._before = (0, False)

    def enter(self) -> None:
        """Set the mode."""
        with self._lock:
            if not self._num_inside:
                self._before = (torch.get_deterministic_debug_mode(), _deterministic.fill_uninitialized_memory)
                torch.set_deterministic_debug_mode("warn")
                _deterministic.fill_uninitialized_memory = False  # for debugging: it would write all new memory twice
            self._num_inside += 1

    def leave(self) -> None:
        """Reset it to what it was."""
        with self._lock:
            self._num_inside -= 1
            if not self._num_inside:
                mode, _deterministic.fill_uninitialized_memory = self._before
                torch.set_deterministic_debug_mode(mode)


_switch = _DeterministicMode()
