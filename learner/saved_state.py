"""The learner's part of a checkpoint; `rlcap.checkpoint` makes the whole safe against crashes.

It is held in memory first, and written later: the learner goes on meanwhile. Weights that are frozen are not in it,
since they are those of the baseline.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from learner.ppo_update import CAPTIONER, PPOUpdate
from rlcap.captioners.weights import FlatWeights, publish, tensors_in
from rlcap.errors import CheckpointError, in_one_line
from rlcap.finite_weights import refuse_loaded

STATE_FILE = "learner.pt"


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """A tensor as numpy holds it: Ray sends it without pickling, and numpy knows no bfloat16."""

    content: UInt8[np.ndarray, " byte"]
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HeldState:
    """A learner at one moment: what it does later does not change it."""

    weights: FlatWeights
    """Those that are trained, in full precision."""
    training: dict[str, Any]
    """Optimiser, counters, reward statistics and ledger."""


def hold(update: PPOUpdate) -> HeldState:
    """Copy all that it takes to go on into main memory."""
    return HeldState(publish(update.captioner, trainable_only=True), _held(update.training_state()))


def write(held: HeldState, directory: Path) -> None:
    """Write what `hold` gave into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {CAPTIONER: tensors_in(held.weights), **_released(held.training)}
    with (directory / STATE_FILE).open("wb") as file:
        torch.save(state, file)


def save(update: PPOUpdate, directory: Path) -> None:
    """Write weights, optimiser, counters, reward statistics and ledger into `directory`."""
    write(hold(update), directory)


def read(directory: Path) -> UInt8[np.ndarray, " byte"]:
    """Return the file that `write` wrote, to be sent to learners that cannot see the folder.

    Raises:
        CheckpointError: If there is none.
    """
    path = directory / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"{directory} holds no learner state: {STATE_FILE} is missing there")
    return np.fromfile(path, dtype=np.uint8)


def restore(update: PPOUpdate, content: UInt8[np.ndarray, " byte"], path: str | Path) -> None:
    """Go on where `hold` was called, bit for bit; only tensors and plain values are read, never code.

    Raises:
        CheckpointError: If the content of `path` is damaged, or of another captioner.
    """
    try:
        state = torch.load(io.BytesIO(content.data), map_location="cpu", weights_only=True)
        refuse_loaded(state[CAPTIONER], path)
        update.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, CheckpointError) as damage:
        raise CheckpointError(f"{path} does not fit this captioner, or is damaged: {in_one_line(damage)}") from damage


def load(update: PPOUpdate, directory: Path) -> None:
    """Go on where `save` left off.

    Raises:
        CheckpointError: If the file is missing, damaged, or of another captioner.
    """
    restore(update, read(directory), directory / STATE_FILE)


def _held(value: Any) -> Any:  # noqa: ANN401 - state dicts hold anything
    """Replace the tensors of a state by copies of theirs."""
    if isinstance(value, Tensor):
        content = np.empty(value.numel() * value.element_size(), np.uint8)
        torch.from_numpy(content).view(value.dtype).copy_(value.detach().reshape(-1))
        return HeldTensor(content, str(value.dtype).removeprefix("torch."), tuple(value.shape))
    if isinstance(value, Mapping):
        return {key: _held(item) for key, item in value.items()}
    return [_held(item) for item in value] if isinstance(value, list) else value


def _released(value: Any) -> Any:  # noqa: ANN401 - state dicts hold anything
    """Turn held tensors into tensors; those that another process may read are copied."""
    if isinstance(value, HeldTensor):
        content = value.content if value.content.flags.writeable else value.content.copy()
        return torch.from_numpy(content).view(getattr(torch, value.dtype)).view(value.shape)
    if isinstance(value, Mapping):
        return {key: _released(item) for key, item in value.items()}
    return [_released(item) for item in value] if isinstance(value, list) else value
