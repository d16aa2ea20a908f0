"""A captioner around a checkpoint of transformers: what encoder-decoders and audio LLMs have in common."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel, ProcessorMixin

from rlcap.captioners.adapters import (
    add_lora,
    base_of_adapters,
    has_adapters,
    holds_adapters,
    load_adapters,
    save_adapters,
)
from rlcap.captioners.decoder import TransformersDecoder
from rlcap.captioners.decoder_captioner import DecoderCaptioner
from rlcap.captioners.generation_settings import eos_token_ids, generate_as_tuned
from rlcap.captioners.hf_checkpoints import load_model, read_part, save_model
from rlcap.captioners.master_weights import dtype_on_disk
from rlcap.captioners.tuned_parts import TunedParts
from rlcap.captioners.value_head import VALUE_HEAD_FILE, load_value_head, new_value_head, save_value_head
from rlcap.config.captioner import DecoderTuning
from rlcap.errors import CheckpointError
from rlcap.types import PolicyFeatures


class PretrainedCaptioner(DecoderCaptioner):
    """A model and processor of transformers; a subclass says how clips become what its decoder writes behind."""

    models: ClassVar[Mapping[str, type[PreTrainedModel]]]
    """By model type."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, parts: TunedParts) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.parts = parts
        self._loaded_dtype = model.dtype
        self.value_head = new_value_head(self.decoder_stack.config.hidden_size)
        self.eos_token_ids = eos_token_ids(model.generation_config, self.tokenizer.eos_token_id)
        pad = self.tokenizer.pad_token_id
        self.pad_token_id = self.eos_token_ids[0] if pad is None else pad
        self._decoder = TransformersDecoder(
            self.decoder_stack, self.token_embedding, checkpoint_layers=parts.gradient_checkpointing
        )

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """What hears the audio."""

    @property
    @abstractmethod
    def decoder_stack(self) -> PreTrainedModel:
        """The decoder's layers, without the projection to the vocabulary."""

    @property
    @abstractmethod
    def token_embedding(self) -> nn.Module:
        """Tokens to vectors."""

    @classmethod
    @abstractmethod
    def read_processor(cls, directory: Path) -> ProcessorMixin:
        """Read feature extractor and tokenizer."""

    @abstractmethod
    def _hear(
        self, frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"]
    ) -> tuple[Float[Tensor, "clip position dim"], Bool[Tensor, "clip position"]]:
        """Run the encoder."""

    def _padded_features(
        self, rows: Sequence[Float32[np.ndarray, "frame mel"]], masks: Sequence[Bool[np.ndarray, " frame"]]
    ) -> PolicyFeatures:
        """Pad what clips were turned into; a frozen encoder hears it here, once, and not at every pass."""
        frames, mask = _pad_rows(rows), _pad_rows(masks)
        if not self.parts.freeze_encoder:
            return PolicyFeatures(frames, mask)
        with torch.no_grad():
            heard, heard_mask = self._hear(torch.from_numpy(frames), torch.from_numpy(mask))
        return PolicyFeatures(heard.float().cpu().numpy(), heard_mask.cpu().numpy())

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but a frozen encoder."""
        super().train(mode)
        if self.parts.freeze_encoder:
            self.encoder.eval()
        return self

    def scoring_parameters(self) -> Iterator[nn.Parameter]:
        """Return all weights but those of a frozen encoder, which has heard before."""
        heard_before = {id(one) for one in self.encoder.parameters()} if self.parts.freeze_encoder else set()
        return (one for one in self.parameters() if id(one) not in heard_before)

    @classmethod
    def check_tuning(cls, parts: TunedParts) -> None:
        """Refuse a frozen decoder: there is nothing else that learns."""
        if parts.decoder is DecoderTuning.frozen:
            raise CheckpointError(
                f"captioner.decoder=frozen leaves nothing to tune in a captioner of family {cls.family}"
            )

    def tune(self) -> None:
        """Leave to be trained what the settings say, adapters added where they ask for them."""
        self.check_tuning(self.parts)
        if self.parts.decoder is DecoderTuning.lora and not has_adapters(self.model):
            add_lora(self.model, self.decoder_stack, rank=self.parts.lora_rank, alpha=self.parts.lora_alpha)
        if not has_adapters(self.model):
            self.model.requires_grad_(True)
        self.encoder.requires_grad_(not self.parts.freeze_encoder)

    def save(self, directory: Path) -> None:
        """Write a checkpoint that plain transformers loads, value head and `rlcap.json` beside it."""
        directory.mkdir(parents=True, exist_ok=True)
        generate_as_tuned(
            self.model.generation_config,
            eos_token_ids=self.eos_token_ids,
            pad_token_id=self.pad_token_id,
            forbidden_tokens=self.forbidden_tokens,
            forbidden_first_tokens=self.forbidden_first_tokens,
        )
        if self.parts.adapters_alone and self.base is not None and has_adapters(self.model):
            save_adapters(self.model, os.path.relpath(self.base, directory), directory)
            self.model.generation_config.save_pretrained(directory)
        else:
            save_model(self.model, directory, dtype_on_disk(self.parts.save_dtype, self._loaded_dtype))
        self.processor.save_pretrained(directory)
        self.parts.write(directory)
        save_value_head(self.value_head, directory)

    @classmethod
    def adopt(cls, directory: Path, parts: TunedParts, *, keep_adapters: bool = False) -> Self:
        """Read a checkpoint to be tuned in this way; nothing is added to it yet."""
        source = cls.base_of(directory) if keep_adapters else directory
        model_type = read_part(AutoConfig, source).model_type
        model = load_model(cls.models[model_type], source)
        if keep_adapters:
            load_adapters(model, directory)
        captioner = cls(model, cls.read_processor(source), parts)
        if (directory / VALUE_HEAD_FILE).is_file():
            load_value_head(captioner.value_head, directory)
        return captioner

    @classmethod
    def base_of(cls, directory: Path) -> Path:
        """Return the checkpoint that the adapters in a directory belong to."""
        return base_of_adapters(directory) if holds_adapters(directory) else directory


def _pad_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Put arrays side by side, zeros behind all but the longest."""
    padded = np.zeros((len(rows), max(map(len, rows)), *rows[0].shape[1:]), dtype=rows[0].dtype)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded
