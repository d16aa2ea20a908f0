"""Captioners of which a run says what is tuned: how they come out of a directory."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Self

from rlcap.captioners.captioner import Captioner
from rlcap.captioners.tuned_parts import TunedParts
from rlcap.config.captioner import DecoderTuning


class TunedCaptioner(Captioner):
    """A captioner whose encoder and decoder are each tuned whole, by adapters, or not at all."""

    parts: TunedParts
    base: Path | None = None
    """What adapters are saved beside, where they are saved alone; None: the captioner is saved whole."""

    @classmethod
    def check_tuning(cls, parts: TunedParts) -> None:
        """Raise CheckpointError where a captioner of this family cannot be tuned so."""

    @abstractmethod
    def tune(self) -> None:
        """Leave to be trained what the settings say, adapters added where they ask for them."""

    @classmethod
    @abstractmethod
    def adopt(cls, directory: Path, parts: TunedParts, *, keep_adapters: bool = False) -> Self:
        """Read a checkpoint to be tuned in this way; nothing is added to it yet.

        Adapters in it become part of its weights, unless they are to be trained further: then they must be rlcap's own.
        """

    @classmethod
    @abstractmethod
    def base_of(cls, directory: Path) -> Path:
        """Return the directory whose model the adapters in another belong to; without adapters, the same one."""

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote, or any checkpoint of the family, ready to be tuned."""
        parts = TunedParts.read(directory)
        keep_adapters = parts.decoder is DecoderTuning.lora and cls.base_of(directory) != directory
        captioner = cls.adopt(directory, parts, keep_adapters=keep_adapters)
        captioner.base = cls.base_of(directory).resolve()
        captioner.tune()
        return captioner
