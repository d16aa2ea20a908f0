"""What the reward model, its fit and its shards need of a CLAP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32
from torch import Tensor, nn

from rlcap.types import Clip


@runtime_checkable
class Clap(Protocol):
    """Embeds clips and captions into one space. Deterministic: the same input gives the same embedding."""

    @property
    def embedding_dim(self) -> int:
        """Size of either embedding."""
        ...

    @property
    def encoder_fingerprint(self) -> str:
        """Hash of what makes audio embeddings."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides an embedding."""
        ...

    @property
    def text_module(self) -> nn.Module:
        """The layers that read captions, up to any projection: their linear layers take adapters."""
        ...

    def embed_clips(self, clips: Sequence[Clip]) -> Float32[np.ndarray, "clip dim"]:
        """Embed clips of any sample rate; a row does not depend on the other clips in the call."""
        ...

    def embed_captions(self, captions: Sequence[str]) -> Float[Tensor, "caption dim"]:
        """Embed captions; gradients reach the weights that want them."""
        ...

    def save(self, directory: Path) -> None:
        """Write config.json, which names the backend, the weights and the tokenizer into `directory`."""
        ...

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote. Raises CheckpointError that names what is missing or differs."""
        ...

    def eval(self) -> Self:
        """Switch dropout off."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Switch the gradients of all weights on or off."""
        ...
