"""A small CLAP: an audio tower and a text tower that meet in one embedding space (Elizalde et al., 2023)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from reward_server.audio_tower import ClapAudioTower
from reward_server.text_tower import TextTower, build_word_tokenizer
from rlcap.audio.features import LogMel, LogMelConfig
from rlcap.captioners.checkpoint_files import read_json
from rlcap.captioners.hf_checkpoints import read_part
from rlcap.config.reward import ClapConfig
from rlcap.errors import CheckpointError
from rlcap.finite_weights import refuse_loaded
from rlcap.types import Clip, PolicyFeatures

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


@dataclass(frozen=True, slots=True)
class ClapShape:
    """What fixes the architecture, and so must agree between a checkpoint and the code that reads it."""

    embedding_dim: int
    log_mel: LogMelConfig
    audio_channels: tuple[int, ...]
    num_segments: int
    text_width: int
    num_text_layers: int
    num_heads: int
    max_words: int
    vocab_size: int

    @classmethod
    def from_config(cls, config: ClapConfig, log_mel: LogMelConfig, vocab_size: int) -> ClapShape:
        """Take the sizes from the settings, the vocabulary from the captions."""
        return cls(
            embedding_dim=config.embedding_dim,
            log_mel=log_mel,
            audio_channels=tuple(config.audio_channels),
            num_segments=config.num_segments,
            text_width=config.text_width,
            num_text_layers=config.num_text_layers,
            num_heads=config.num_heads,
            max_words=config.max_words,
            vocab_size=vocab_size,
        )


class SmallClap(nn.Module):
    """Embeds log-mel features and captions; matching pairs have a large cosine."""

    backend = "small"

    def __init__(self, shape: ClapShape, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.shape = shape
        self.tokenizer = tokenizer
        self._log_mel = LogMel(shape.log_mel)
        self.audio_tower = ClapAudioTower(
            shape.log_mel.num_mels, shape.audio_channels, shape.num_segments, shape.embedding_dim
        )
        self.text_tower = TextTower(
            shape.vocab_size,
            shape.text_width,
            shape.num_text_layers,
            shape.num_heads,
            shape.max_words,
            shape.embedding_dim,
        )
        self.log_logit_scale = nn.Parameter(torch.tensor(10.0).log())

    @classmethod
    def for_captions(
        cls, config: ClapConfig, captions: Sequence[str], log_mel: LogMelConfig, *, seed: int
    ) -> SmallClap:
        """New model, its vocabulary the words of these captions, its weights drawn from `seed`."""
        tokenizer = build_word_tokenizer(captions, config.max_words)
        shape = ClapShape.from_config(config, log_mel, len(tokenizer))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(shape, tokenizer)

    @property
    def embedding_dim(self) -> int:
        """Size of either embedding."""
        return self.shape.embedding_dim

    @property
    def encoder_fingerprint(self) -> str:
        """Hash of what makes audio embeddings: features and audio tower."""
        settings = json.dumps([asdict(self.shape.log_mel), self.shape.audio_channels, self.shape.num_segments])
        return content_hash(settings.encode(), self.audio_tower.state_dict())

    @property
    def fingerprint(self) -> str:
        """Hash of everything: sizes, features, words and weights."""
        words = self.tokenizer.backend_tokenizer.to_str()
        return content_hash((json.dumps(asdict(self.shape)) + words).encode(), self.state_dict())

    @property
    def text_module(self) -> nn.Module:
        """The transformer layers of the text tower."""
        return self.text_tower.layers

    @torch.inference_mode()
    def embed_clips(self, clips: Sequence[Clip]) -> Float32[np.ndarray, "clip dim"]:
        """Embed clips of any sample rate, one by one: products of matrices round differently in larger batches."""
        rows = [self.embed_features(self._log_mel([clip])) for clip in clips]
        embedded: Float32[np.ndarray, "clip dim"] = torch.cat(rows).cpu().numpy()
        return embedded

    def embed_features(self, features: PolicyFeatures) -> Float[Tensor, "clip dim"]:
        """Embed log-mel frames `[clip, frame, mel]`; not normalised."""
        device = self.log_logit_scale.device
        frames, mask = torch.from_numpy(features.frames).to(device), torch.from_numpy(features.frame_mask).to(device)
        embedded: Tensor = self.audio_tower(frames, mask)
        return embedded

    def embed_captions(self, captions: Sequence[str]) -> Float[Tensor, "caption dim"]:
        """Embed captions, padded to the longest of them; not normalised."""
        return self.embed_tokens(self.tokenize(captions))

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids `[caption, token]` (int64) and mask (bool), padded to the longest caption."""
        encoded = self.tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        return encoded["input_ids"], encoded["attention_mask"].bool()

    def embed_tokens(self, tokens: tuple[Tensor, Tensor]) -> Float[Tensor, "caption dim"]:
        """Embed what `tokenize` returned."""
        device = self.log_logit_scale.device
        embedded: Tensor = self.text_tower(*(part.to(device) for part in tokens))
        return embedded

    def save(self, directory: Path) -> None:
        """Write config.json, model.safetensors and the tokenizer's files into `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        config = {"backend": self.backend, **asdict(self.shape)}
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, directory / WEIGHTS_FILE)
        self.tokenizer.save_pretrained(directory)

    @classmethod
    def load(cls, directory: Path) -> SmallClap:
        """Read what `save` wrote. Raises CheckpointError that names what is missing or differs."""
        shape = _read_shape(directory / CONFIG_FILE)
        tokenizer = read_part(PreTrainedTokenizerFast, directory)
        if len(tokenizer) != shape.vocab_size:
            raise CheckpointError(
                f"the CLAP in {directory} expects {shape.vocab_size} words, but its tokenizer has {len(tokenizer)}"
            )
        model = cls(shape, tokenizer)
        load_weights(model, directory / WEIGHTS_FILE)
        return model.eval()


def content_hash(settings: bytes, weights: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that change with any setting, or any bit of any weight."""
    digest = hashlib.blake2b(settings, digest_size=8)
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def tokenizer_settings(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """All that decides token ids; padding and truncation, which are state of the latest call, left out."""
    settings: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return settings | {"padding": None, "truncation": None}


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file whose names and shapes must be exactly the model's. Raises CheckpointError."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the weights in {path} cannot be read: {error}") from error
    put_weights(model, weights, path)


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy weights read from `path`; names and shapes must be exactly the model's. Raises CheckpointError."""
    expected = model.state_dict()
    faults = [f"{name} is missing" for name in expected.keys() - weights.keys()]
    faults += [f"{name} is unknown" for name in weights.keys() - expected.keys()]
    faults += [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected.keys() & weights.keys()
        if weights[name].shape != expected[name].shape
    ]
    if faults:
        shown = "; ".join(sorted(faults)[:5])
        raise CheckpointError(f"the weights in {path} are of another architecture ({len(faults)} differences): {shown}")
    refuse_loaded(weights, path)
    model.load_state_dict(weights)


def _read_shape(path: Path) -> ClapShape:
    try:
        fields = read_json(path)
        known = {"log_mel": LogMelConfig(**fields["log_mel"]), "audio_channels": tuple(fields["audio_channels"])}
        del fields["backend"]
        return ClapShape(**{**fields, **known})
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} does not describe a small CLAP: {error}; train one or give its folder"
        ) from error
