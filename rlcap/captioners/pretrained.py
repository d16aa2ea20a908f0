"""A captioner around a checkpoint of transformers: what encoder-decoders and audio LLMs have in common."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from rlcap.captioners.adapters import (
    add_lora,
    base_of_adapters,
    has_adapters,
    holds_adapters,
    load_adapters,
    merged_weights,
    save_adapters,
    state_without_adapters,
)
from rlcap.captioners.decoder import TransformersDecoder
from rlcap.captioners.decoder_captioner import DecoderCaptioner
from rlcap.captioners.master_weights import dtype_on_disk, held_in
from rlcap.captioners.tuned_parts import TunedParts
from rlcap.captioners.value_head import VALUE_HEAD_FILE, load_value_head, new_value_head, save_value_head
from rlcap.config.captioner import DecoderTuning
from rlcap.errors import CheckpointError
from rlcap.types import PolicyFeatures

SHAPING = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "exponential_decay_length_penalty",
    "min_length",
    "min_new_tokens",
    "num_beams",
)
"""Settings of generation by which another token than the most probable one may be written next."""


class PretrainedCaptioner(DecoderCaptioner):
    """A model and processor of transformers; a subclass says how clips become what its decoder writes behind."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, parts: TunedParts) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.parts = parts
        self._loaded_dtype = model.dtype
        self.value_head = new_value_head(self.decoder_stack.config.hidden_size)
        self.eos_token_ids = eos_token_ids(model, self.tokenizer.eos_token_id)
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
    def read(cls, directory: Path) -> tuple[PreTrainedModel, ProcessorMixin]:
        """Read model and processor, from local files alone."""

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
        self._generate_as_tuned()
        if self.parts.adapters_alone and self.base is not None and has_adapters(self.model):
            save_adapters(self.model, os.path.relpath(self.base, directory), directory)
            self.model.generation_config.save_pretrained(directory)
        else:
            save_model(self.model, directory, dtype_on_disk(self.parts.save_dtype, self._loaded_dtype))
        self.processor.save_pretrained(directory)
        self.parts.write(directory)
        save_value_head(self.value_head, directory)

    def _generate_as_tuned(self) -> None:
        """Have `generate` draw from the distribution that is tuned here: it would reshape it in ways of its own."""
        settings = self.model.generation_config
        for name in SHAPING:
            setattr(settings, name, None)
        settings.eos_token_id = list(self.eos_token_ids) if len(self.eos_token_ids) > 1 else self.eos_token_ids[0]
        settings.suppress_tokens = list(self.forbidden_tokens) or None
        settings.begin_suppress_tokens = list(self.forbidden_first_tokens) or None

    @classmethod
    def adopt(cls, directory: Path, parts: TunedParts) -> Self:
        """Read a checkpoint to be tuned in this way; nothing is added to it yet."""
        model, processor = cls.read(cls.base_of(directory))
        if holds_adapters(directory):
            load_adapters(model, directory)
        captioner = cls(model, processor, parts)
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


def load_model(auto_class: Any, directory: Path) -> PreTrainedModel:  # noqa: ANN401 - transformers' auto classes
    """Load a model whole: transformers would draw what is missing at random, with a mere warning.

    Raises:
        CheckpointError: weights are damaged, missing, or of another architecture.
    """
    try:
        model, found = auto_class.from_pretrained(
            directory, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except SafetensorError as damage:
        raise CheckpointError(f"{directory} holds damaged weights: {damage}") from damage
    _refuse_strangers(directory, found)
    loaded: PreTrainedModel = model
    return loaded


def save_model(model: PreTrainedModel, directory: Path, dtype: torch.dtype) -> None:
    """Write a model that plain transformers loads, in this dtype, adapters merged; its weights stay as they are."""
    merged = merged_weights(model, dtype)
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            part.config.dtype = dtype  # the library writes that of the whole alone
    with held_in(dtype, model):
        model.save_pretrained(directory, state_dict=state_without_adapters(model) | merged if merged else None)


def _refuse_strangers(directory: Path, found: Mapping[str, Any]) -> None:
    strangers = sorted(map(str, {*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]}))
    if strangers:
        raise CheckpointError(
            f"{directory} holds weights of another architecture than its config.json: they differ in "
            f"{', '.join(strangers[:3])}"
        )


def eos_token_ids(model: PreTrainedModel, of_tokenizer: int) -> tuple[int, ...]:
    """Return what ends a caption: the generation settings may name several tokens."""
    known = model.generation_config.eos_token_id
    listed = known if isinstance(known, list) else [known]
    return tuple(dict.fromkeys([of_tokenizer, *(token for token in listed if token is not None)]))
