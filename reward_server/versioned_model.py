"""What a shard needs of a reward model."""

from __future__ import annotations

from typing import Protocol, Self

import torch

from reward_server.clap import Clap
from rlcap.protocols import RewardModel


class VersionedModel(RewardModel, Protocol):
    """A reward model that names its version and can be moved to a device."""

    @property
    def version(self) -> str:
        """Hash of all that decides a score."""
        ...

    @property
    def towers(self) -> Clap:
        """What embeds clips and captions."""
        ...

    @property
    def towers_fingerprint(self) -> str:
        """Hash of the towers: models with the same one can share them."""
        ...

    @property
    def towers_bytes(self) -> int:
        """Memory that the towers' weights take."""
        ...

    @property
    def num_bytes(self) -> int:
        """Memory that all weights take."""
        ...

    def without_towers(self) -> Self:
        """A copy to be sent where the towers are already."""
        ...

    def over(self, towers: Clap) -> Self:
        """A copy over these towers."""
        ...

    def to(self, device: torch.device) -> Self:
        """Move it to a device; returns itself."""
        ...
