"""A captioner around a checkpoint of transformers: what encoder-decoders and audio LLMs have in common."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from rlcap.captioners.adapters import (
    add_lora,
    base_of_adapters,
    has_adapters,
    holds_adapters,
    load_adapters,
    merged_state,
    save_adapters,
)
from rlcap.captioners.captioner import Captioner, Encoding
from rlcap.captioners.decoder import Context, DecoderRows, FixedRows, TransformersDecoder
from rlcap.captioners.tuned_parts import TunedParts
from rlcap.captioners.value_head import VALUE_HEAD_FILE, load_value_head, new_value_head, save_value_head
from rlcap.config.captioner import DecoderTuning
from rlcap.errors import CheckpointError


class PretrainedCaptioner(Captioner):
    """A model and processor of transformers; a subclass says how clips become a decoder's context."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, parts: TunedParts) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.parts = parts
        self.value_head = new_value_head(self.decoder_stack.config.hidden_size)
        self.eos_token_ids = _eos_token_ids(model, self.tokenizer.eos_token_id)
        pad = self.tokenizer.pad_token_id
        self.pad_token_id = self.eos_token_ids[0] if pad is None else pad
        self._base: Path | None = None
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

    @abstractmethod
    def context(self, encoding: Encoding) -> Context:
        """What the captions of these clips are written behind."""

    @classmethod
    @abstractmethod
    def read(cls, directory: Path) -> tuple[PreTrainedModel, ProcessorMixin]:
        """Read model and processor, from local files alone."""

    def begin(
        self, encoding: Encoding, clip_index: Int[Tensor, " batch"], max_new_tokens: int
    ) -> tuple[DecoderRows | FixedRows, Float[Tensor, "batch dim"]]:
        """Read each clip once. Raises CheckpointError where captions are longer than the positions known."""
        return self._decoder.begin(self.context(encoding), clip_index, max_new_tokens)

    def step(self, state: DecoderRows | FixedRows, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """Append one token to every row."""
        return self._decoder.step(state, tokens)

    def hidden_states(
        self,
        encoding: Encoding,
        clip_index: Int[Tensor, " batch"],
        tokens: Int[Tensor, "batch token"],
        action_mask: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "valid dim"]:
        """Teacher-force; each clip is read once here too."""
        return self._decoder.hidden_states(self.context(encoding), clip_index, tokens, action_mask)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but a frozen encoder."""
        super().train(mode)
        if self.parts.freeze_encoder:
            self.encoder.eval()
        return self

    def tune(self) -> None:
        """Leave to be trained what the settings say, adapters added where they ask for them."""
        if self.parts.decoder is DecoderTuning.frozen:
            raise CheckpointError(
                f"captioner.decoder=frozen leaves nothing to tune in a captioner of family {self.family}"
            )
        if self.parts.decoder is DecoderTuning.lora and not has_adapters(self.model):
            add_lora(self.model, self.decoder_stack, rank=self.parts.lora_rank, alpha=self.parts.lora_alpha)
        if not has_adapters(self.model):
            self.model.requires_grad_(True)
        self.encoder.requires_grad_(not self.parts.freeze_encoder)

    def save(self, directory: Path) -> None:
        """Write a checkpoint that plain transformers loads, value head and `rlcap.json` beside it."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.parts.adapters_alone and self._base is not None and has_adapters(self.model):
            save_adapters(self.model, os.path.relpath(self._base, directory), directory)
        else:
            merged = merged_state(self.model) if has_adapters(self.model) else None
            self.model.save_pretrained(directory, state_dict=merged)
        self.processor.save_pretrained(directory)
        self.parts.write(directory)
        save_value_head(self.value_head, directory)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote, or any checkpoint of the family, ready to be tuned."""
        captioner = cls.adopt(directory, TunedParts.read(directory))
        captioner.tune()
        return captioner

    @classmethod
    def adopt(cls, directory: Path, parts: TunedParts) -> Self:
        """Read a checkpoint to be tuned in this way; nothing is added to it yet."""
        base = base_of_adapters(directory) if holds_adapters(directory) else directory
        model, processor = cls.read(base)
        if holds_adapters(directory):
            load_adapters(model, directory)
        captioner = cls(model, processor, parts)
        captioner._base = base.resolve()
        if (directory / VALUE_HEAD_FILE).is_file():
            load_value_head(captioner.value_head, directory)
        return captioner


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


def _refuse_strangers(directory: Path, found: Mapping[str, Any]) -> None:
    strangers = sorted(map(str, {*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]}))
    if strangers:
        raise CheckpointError(
            f"{directory} holds weights of another architecture than its config.json: they differ in "
            f"{', '.join(strangers[:3])}"
        )


def _eos_token_ids(model: PreTrainedModel, of_tokenizer: int) -> tuple[int, ...]:
    """Return what ends a caption: the generation settings may name several tokens."""
    known = model.generation_config.eos_token_id
    listed = known if isinstance(known, list) else [known]
    return tuple(dict.fromkeys([of_tokenizer, *(token for token in listed if token is not None)]))
