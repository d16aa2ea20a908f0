"""The critic on a decoder's hidden states, and its file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rlcap.errors import CheckpointError, in_one_line

VALUE_HEAD_FILE = "value_head.safetensors"


def build_value_head(width: int) -> nn.Sequential:
    """Make a critic: hidden states `[..., width]` to values `[..., 1]`.

    Its last layer starts at zero: a random one would foresee something else of every state, and the first advantages
    would hold that noise.
    """
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), last)


def new_value_head(width: int, seed: int = 0) -> nn.Sequential:
    """Make the critic of a checkpoint that has none yet: the same one in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_value_head(width)


def save_value_head(value_head: nn.Module, directory: Path) -> None:
    """Write the critic beside a captioner."""
    save_file(value_head.state_dict(), directory / VALUE_HEAD_FILE)


def load_value_head(value_head: nn.Module, directory: Path) -> None:
    """Read the critic of a captioner.

    Raises:
        OSError: there is none.
        CheckpointError: it is damaged, or of another size.
    """
    try:
        value_head.load_state_dict(load_file(directory / VALUE_HEAD_FILE))
    except (RuntimeError, SafetensorError) as mismatch:
        raise CheckpointError(
            f"{directory} holds damaged weights or another architecture: {in_one_line(mismatch)}"
        ) from mismatch
