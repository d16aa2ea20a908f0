"""CLAPs in Hugging Face layout, such as laion/clap-htsat-unfused (Wu et al., 2023)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

from reward_server.small_clap import CONFIG_FILE, content_hash, tokenizer_settings
from rlcap.audio.clap_input import clap_input
from rlcap.captioners.hf_checkpoints import load_model, local_directory, read_part
from rlcap.finite_weights import refuse_loaded
from rlcap.types import Clip

UNDECISIVE = {"_name_or_path", "architectures", "backend", "dtype", "transformers_version"}
"""Settings of the library that change no embedding, and may differ after a save."""


class HfClap(nn.Module):
    """A `ClapModel` with its feature extractor and tokenizer."""

    backend = "transformers"

    def __init__(self, model: ClapModel, extractor: ClapFeatureExtractor, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self._extractor = extractor
        self._is_fused: bool = model.config.audio_config.enable_fusion
        text = model.config.text_config
        # RoBERTa numbers positions from after the padding token.
        self._max_tokens: int = text.max_position_embeddings - text.pad_token_id - 1

    @property
    def embedding_dim(self) -> int:
        """Size of either embedding."""
        dim: int = self.model.config.projection_dim
        return dim

    @property
    def encoder_fingerprint(self) -> str:
        """Hash of what makes audio embeddings: features and audio tower."""
        audio = nn.ModuleList([self.model.audio_model, self.model.audio_projection])
        settings = [self._extractor.to_dict(), self.model.config.audio_config.to_dict()]
        return content_hash(_as_bytes(settings), audio.state_dict())

    @property
    def fingerprint(self) -> str:
        """Hash of everything: sizes, features, words and weights."""
        settings = [self._extractor.to_dict(), self.model.config.to_dict(), tokenizer_settings(self.tokenizer)]
        return content_hash(_as_bytes(settings), self.model.state_dict())

    @property
    def text_module(self) -> nn.Module:
        """RoBERTa, its pooler included."""
        module: nn.Module = self.model.text_model
        return module

    @torch.inference_mode()
    def embed_clips(self, clips: Sequence[Clip]) -> Float32[np.ndarray, "clip dim"]:
        """Embed clips of any sample rate, one by one: the library marks one of several short clips as long at random.

        Rows have length 1.
        """
        embedded: Float32[np.ndarray, "clip dim"] = torch.cat([self._embed_clip(clip) for clip in clips]).cpu().numpy()
        return embedded

    def embed_captions(self, captions: Sequence[str]) -> Float[Tensor, "caption dim"]:
        """Embed captions, padded to the longest of them; rows have length 1."""
        tokens = self.tokenizer(
            list(captions), padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        tokens = tokens.to(self.model.device)
        output = self.model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
        embedded: Tensor = output.pooler_output
        return embedded

    def save(self, directory: Path) -> None:
        """Write the files of the Hugging Face layout into `directory`, the backend's name added to config.json."""
        directory.mkdir(parents=True, exist_ok=True)
        for part in (self.model, self._extractor, self.tokenizer):
            part.save_pretrained(directory)
        path = directory / CONFIG_FILE
        config = {"backend": self.backend, **json.loads(path.read_text(encoding="utf-8"))}
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> HfClap:
        """Read a directory in Hugging Face layout, or by a hub name what is already in the library's own cache.

        Raises:
            CheckpointError: something is missing, damaged, or of another architecture.
        """
        directory = local_directory(directory)
        model = load_model(ClapModel, directory, dtype=torch.float32)
        extractor = read_part(ClapFeatureExtractor, directory)
        tokenizer = read_part(AutoTokenizer, directory)
        refuse_loaded(model.state_dict(), f"the CLAP in {directory}")
        # Weights mapped from a file lie at odd addresses, which changes the last bits of products.
        for weights in model.parameters():
            weights.data = weights.data.clone()
        return cls(model, extractor, tokenizer).eval()

    def _embed_clip(self, clip: Clip) -> Float[Tensor, "1 dim"]:
        heard = clap_input(self._extractor, clip, is_fused=self._is_fused)
        device = self.model.device
        output = self.model.get_audio_features(
            heard.mels[None].to(device), is_longer=torch.tensor([[heard.is_longer]], device=device)
        )
        embedded: Tensor = output.pooler_output
        return embedded


def _as_bytes(settings: list[dict[str, Any]]) -> bytes:
    return json.dumps([_decisive(part) for part in settings], sort_keys=True, default=str).encode()


def _decisive(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _decisive(value) if isinstance(value, dict) else value
        for name, value in settings.items()
        if name not in UNDECISIVE
    }
