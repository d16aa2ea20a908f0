"""The prefix family: an audio encoder whose output stands in front of a causal language model's caption.

Mokady et al., *ClipCap: CLIP Prefix for Image Captioning* (2021), with sounds instead of images.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from rlcap.audio.features import LogMelConfig
from rlcap.audio.tower import pool_segments
from rlcap.captioners.adapters import (
    add_lora,
    base_of_adapters,
    has_adapters,
    holds_adapters,
    load_adapters,
    save_adapters,
)
from rlcap.captioners.audio_encoders import AudioEncoder, ClapEncoder, SmallEncoder
from rlcap.captioners.captioner import Encoding
from rlcap.captioners.decoder import TransformersDecoder
from rlcap.captioners.decoder_captioner import DecoderCaptioner
from rlcap.captioners.generation_settings import eos_token_ids, generate_as_tuned
from rlcap.captioners.heads import vocabulary_scores
from rlcap.captioners.hf_checkpoints import load_model, read_part, save_model
from rlcap.captioners.master_weights import dtype_on_disk
from rlcap.captioners.prefix_transformer import PrefixTransformer
from rlcap.captioners.tuned_parts import TunedParts
from rlcap.captioners.value_head import build_value_head, load_value_head, save_value_head
from rlcap.config.captioner import DecoderTuning
from rlcap.errors import CheckpointError, in_one_line
from rlcap.types import Clip, PolicyFeatures

CLAP, LANGUAGE_MODEL = "clap", "language_model"
"""Folders of a captioner: a pretrained audio tower, where there is one, and the language model."""


@dataclass(frozen=True)
class PrefixCaptionerConfig:
    """The architecture of a prefix captioner, as `config.json` holds it; pretrained parts have their own."""

    num_segments: int = 8
    """Prefix vectors in time order; one more, for the whole clip, stands before them."""
    encoder_channels: tuple[int, ...] = (16, 32, 64, 96)
    """Of the small tower."""
    mapper_layers: int = 0
    """Layers of the transformer behind the linear map of audio to prefix; 0: there is none."""
    prefix_dropout: float = 0.1
    """On the prefix while a baseline is trained; inside the language model its own dropout acts."""
    features: LogMelConfig = field(default_factory=LogMelConfig)
    """What the small tower reads."""


class PrefixCaptioner(DecoderCaptioner):
    """Audio prefix and causal language model, with a small critic on the detached hidden states."""

    family = "prefix"

    def __init__(
        self,
        config: PrefixCaptionerConfig,
        language_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        audio_tower: AudioEncoder | None = None,
        parts: TunedParts | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.parts = parts or TunedParts()
        self.tokenizer = tokenizer
        self.language_model = language_model
        self._loaded_dtype = language_model.dtype
        width = language_model.get_input_embeddings().embedding_dim
        self.audio_tower = audio_tower or SmallEncoder(config.features, config.encoder_channels)
        self.audio_tower.requires_grad_(not self.parts.freeze_encoder).eval()  # a new module is in training mode
        # Norms halve the captions it takes to learn: the tower's channels differ in scale.
        self.segments_to_prefix = _normed_linear(self.audio_tower.width, width)
        self.clip_to_prefix = _normed_linear(2 * self.audio_tower.width, width)
        self.prefix_transformer = (
            PrefixTransformer(width, 1 + config.num_segments, config.mapper_layers, config.prefix_dropout)
            if config.mapper_layers
            else nn.Identity()
        )
        self.prefix_dropout = nn.Dropout(config.prefix_dropout)
        self.value_head = build_value_head(width)
        self.eos_token_ids = eos_token_ids(language_model.generation_config, tokenizer.eos_token_id)
        pad = tokenizer.pad_token_id
        self.pad_token_id = self.eos_token_ids[0] if pad is None else pad
        self._decoder = TransformersDecoder(
            language_model.base_model,
            language_model.get_input_embeddings(),
            checkpoint_layers=self.parts.gradient_checkpointing,
            keep_attention=not (language_model._supports_attention_backend and language_model._supports_sdpa),
        )

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what learns; the statistics of any audio tower stay as they were trained."""
        super().train(mode)
        self.audio_tower.eval()
        if self.parts.decoder is DecoderTuning.frozen:
            self.language_model.eval()
        return self

    def scoring_parameters(self) -> Iterator[nn.Parameter]:
        """Return all weights but those of a frozen tower, which has heard before."""
        heard_before = {id(one) for one in self.audio_tower.parameters()} if self.parts.freeze_encoder else set()
        return (one for one in self.parameters() if id(one) not in heard_before)

    def features(self, clips: Sequence[Clip]) -> PolicyFeatures:
        """Compute what the audio tower reads, or what a frozen one hears."""
        inputs = self.audio_tower.inputs(clips)
        return self._heard(inputs) if self.parts.freeze_encoder else inputs

    def encode(self, frames: Float[Tensor, "clip frame dim"], frame_mask: Bool[Tensor, "clip frame"]) -> Encoding:
        """Turn features into prefix vectors, `[C, 1 + num_segments, D]`."""
        frames = frames.to(next(self.clip_to_prefix.parameters()).dtype)
        steps, mask = (frames, frame_mask) if self.parts.freeze_encoder else self.audio_tower(frames, frame_mask)
        peak = steps.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
        mean = torch.where(mask[:, :, None], steps, 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        whole = self.clip_to_prefix(torch.cat([mean, peak], dim=1)).unsqueeze(1)
        segments = self.segments_to_prefix(pool_segments(steps, mask, self.config.num_segments))
        return Encoding(self.prefix_dropout(self.prefix_transformer(torch.cat([whole, segments], dim=1))))

    def logits(self, hidden: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
        """Project to the vocabulary."""
        return vocabulary_scores(self.language_model, hidden)

    def tune(self) -> None:
        """Leave to be trained what the settings say; what maps audio to prefix always learns."""
        if self.parts.decoder is DecoderTuning.lora and not has_adapters(self.language_model):
            stack = self.language_model.base_model
            add_lora(self.language_model, stack, rank=self.parts.lora_rank, alpha=self.parts.lora_alpha)
        if not has_adapters(self.language_model):
            self.language_model.requires_grad_(self.parts.decoder is DecoderTuning.full)
        self.audio_tower.requires_grad_(not self.parts.freeze_encoder)

    def save(self, directory: Path) -> None:
        """Write config, encoder, language model, tokenizer, value head, and what is tuned."""
        directory.mkdir(parents=True, exist_ok=True)
        settings = {"family": self.family, **asdict(self.config)}
        (directory / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        self._save_language_model(directory / LANGUAGE_MODEL)
        if isinstance(self.audio_tower, ClapEncoder):
            self.audio_tower.save(directory / CLAP, self.parts.save_dtype)
        save_file(_contiguous(self._encoder().state_dict()), directory / "audio_encoder.safetensors")
        self.parts.write(directory)
        save_value_head(self.value_head, directory)

    @classmethod
    def adopt(cls, directory: Path, parts: TunedParts, *, keep_adapters: bool = False) -> PrefixCaptioner:
        """Read what `save` wrote, to be tuned in this way.

        Raises:
            CheckpointError: a file is missing, or its weights are of another architecture.
        """
        settings = json.loads((directory / "config.json").read_text())
        settings.pop("family")
        features = LogMelConfig(**settings.pop("features"))
        channels = tuple(settings.pop("encoder_channels"))
        config = PrefixCaptionerConfig(**settings, encoder_channels=channels, features=features)
        own = directory / LANGUAGE_MODEL
        language_model = load_model(AutoModelForCausalLM, base_of_adapters(own) if keep_adapters else own)
        if keep_adapters:
            load_adapters(language_model, own)
        tokenizer = read_part(AutoTokenizer, own)
        tower = ClapEncoder.load(directory / CLAP) if (directory / CLAP).is_dir() else None
        captioner = cls(config, language_model, tokenizer, audio_tower=tower, parts=parts)
        try:
            captioner._encoder().load_state_dict(load_file(directory / "audio_encoder.safetensors"))
        except (RuntimeError, SafetensorError) as mismatch:
            raise CheckpointError(
                f"{directory} holds damaged weights or another architecture: {in_one_line(mismatch)}"
            ) from mismatch
        load_value_head(captioner.value_head, directory)
        return captioner

    @classmethod
    def base_of(cls, directory: Path) -> Path:
        """Return the captioner whose language model the adapters in a directory belong to."""
        own = directory / LANGUAGE_MODEL
        return base_of_adapters(own).parent if holds_adapters(own) else directory

    @torch.no_grad()
    def _heard(self, inputs: PolicyFeatures) -> PolicyFeatures:
        like = next(self.audio_tower.parameters())
        frames = torch.from_numpy(inputs.frames).to(like.device, like.dtype)
        mask = torch.from_numpy(inputs.frame_mask).to(like.device)
        steps, mask = self.audio_tower(frames, mask)
        return PolicyFeatures(steps.contiguous().float().cpu().numpy(), mask.cpu().numpy())

    def _save_language_model(self, directory: Path) -> None:
        if self.parts.adapters_alone and self.base is not None and has_adapters(self.language_model):
            save_adapters(self.language_model, os.path.relpath(self.base / LANGUAGE_MODEL, directory), directory)
        else:
            settings = self.language_model.generation_config
            generate_as_tuned(settings, eos_token_ids=self.eos_token_ids, pad_token_id=self.pad_token_id)
            save_model(self.language_model, directory, dtype_on_disk(self.parts.save_dtype, self._loaded_dtype))
        self.tokenizer.save_pretrained(directory)

    def _encoder(self) -> nn.ModuleDict:
        """Return what this family has of its own, in one file."""
        own: dict[str, nn.Module] = {
            "segments_to_prefix": self.segments_to_prefix,
            "clip_to_prefix": self.clip_to_prefix,
        }
        if self.config.mapper_layers:
            own["prefix_transformer"] = self.prefix_transformer
        if isinstance(self.audio_tower, SmallEncoder):
            own["audio_tower"] = self.audio_tower
        return nn.ModuleDict(own)


def _normed_linear(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, outputs))


def _contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in state.items()}
