"""The learner's part of a checkpoint; `rlcap.checkpoint` makes the whole safe against crashes."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from learner.ppo_update import PPOUpdate
from rlcap.errors import CheckpointError, in_one_line

STATE_FILE = "learner.pt"


def save(update: PPOUpdate, directory: Path) -> None:
    """Write weights, optimiser, counters, reward statistics and ledger into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.save(update.state_dict(), directory / STATE_FILE)


def load(update: PPOUpdate, directory: Path) -> None:
    """Go on where `save` left off, bit for bit; only tensors and plain values are read, never code.

    Raises:
        CheckpointError: If the file is missing, damaged, or of another captioner.
    """
    path = directory / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"{directory} holds no learner state: {STATE_FILE} is missing there")
    try:
        update.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as damage:
        raise CheckpointError(f"{path} does not fit this captioner, or is damaged: {in_one_line(damage)}") from damage
