"""Weights that are not finite are refused by name: where they come in, and before they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from rlcap.errors import CheckpointError

NUM_NAMED = 3
"""Tensors that a message names."""


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity.

    Smallest and largest number tell: finding both takes a tenth of the time of `isfinite`, and no memory.
    """
    named = {name: one for name, one in tensors.items() if one.is_floating_point() and one.numel()}
    if not named:
        return []
    ends = torch.stack([end.float() for one in named.values() for end in one.detach().aminmax()])
    sound = ends.isfinite().view(-1, 2).all(dim=1).tolist()  # one look at the device for all
    return [name for name, is_sound in zip(named, sound, strict=True) if not is_sound]


def refuse_loaded(tensors: Mapping[str, Tensor], place: str | Path) -> None:
    """Refuse what was read from `place`.

    Raises:
        CheckpointError: it holds weights that are not finite; names them.
    """
    if names := not_finite(tensors):
        raise CheckpointError(
            f"{place} holds weights that are not finite, in {some_of(names)}: take an earlier one, or another copy"
        )


def refuse_files(directory: Path, what: str) -> None:
    """Refuse what has been written below `directory`, before others read it.

    Raises:
        CheckpointError: a safetensors file there holds numbers that are not finite; names file and tensors.
    """
    for path in sorted(directory.rglob("*.safetensors")):
        if names := not_finite(load_file(path)):
            raise CheckpointError(
                f"{what} would keep weights that are not finite, in {some_of(names)} of {path.relative_to(directory)}: "
                "look for NaN in its losses, and lower the learning rate"
            )


def some_of(names: Sequence[str]) -> str:
    """List the first few."""
    named, num_left = ", ".join(names[:NUM_NAMED]), len(names) - NUM_NAMED
    return f"{named} and {num_left} more" if num_left > 0 else named
