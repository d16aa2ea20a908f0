"""What a shard needs of a reward model."""

from __future__ import annotations

from typing import Protocol, Self

import torch

from rlcap.protocols import RewardModel


class VersionedModel(RewardModel, Protocol):
    """A reward model that names its version and can be moved to a device."""

    @property
    def version(self) -> str:
        """Hash of all that decides a score."""
        ...

    @property
    def num_bytes(self) -> int:
        """Memory that its weights take."""
        ...

    def to(self, device: torch.device) -> Self:
        """Move it to a device; returns itself."""
        ...
