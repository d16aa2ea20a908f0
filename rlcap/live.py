"""Calls to a run that is going on, from any process that sees its folder: `rlcap reward swap`, `rlcap actors scale`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlcap.mailbox import ask
from rlcap.run_directory import find_run_directory

TIMEOUT_S = 600.0
"""Longest wait for what loads a model or starts a process."""


def swap_reward(run_dir: str | Path, reward: str | Path, *, shadow: bool = False) -> dict[str, Any]:
    """Probe the reward model in `reward`, then make it live; with `shadow` it only scores beside the live one.

    Returns the probe's report and the first update that it scores. Calling it again without `shadow` makes a shadow
    live.

    Raises:
        RunError: the run is not going on, or refuses the model; it goes on unharmed.
    """
    return _ask(run_dir, "swap", path=str(Path(reward).resolve()), shadow=shadow)


def discard_reward(run_dir: str | Path) -> dict[str, Any]:
    """Let go of a shadow. Raises RunError where there is none, or the run is not going on."""
    return _ask(run_dir, "discard")


def rollback_reward(run_dir: str | Path) -> dict[str, Any]:
    """Make the reward model live that was live before. Raises RunError where there is none."""
    return _ask(run_dir, "rollback")


def reward_status(run_dir: str | Path) -> dict[str, Any]:
    """Versions, shards and their load. Raises RunError where the run is not going on."""
    return _ask(run_dir, "status")


def add_shard(run_dir: str | Path, *, replica_of: str = "") -> dict[str, Any]:
    """Start one more shard, or a replica of one. Raises RunError where it cannot be started."""
    return _ask(run_dir, "add_shard", replica_of=replica_of)


def remove_shard(run_dir: str | Path, name: str) -> dict[str, Any]:
    """End a shard and its replicas. Raises RunError where it is unknown or the last."""
    return _ask(run_dir, "remove_shard", name=name)


def scale_actors(run_dir: str | Path, *, add: int = 0, remove: int = 0) -> dict[str, Any]:
    """Let caption actors join or leave a run; those that join work as soon as they have started.

    Returns how many are there and how many have yet to start. Raises RunError where none would be left, or the run is
    not going on.
    """
    return _ask(run_dir, "scale_actors", add=add, remove=remove)


def _ask(run_dir: str | Path, action: str, **arguments: object) -> dict[str, Any]:
    return ask(find_run_directory(run_dir).control, action, arguments, TIMEOUT_S)
