"""CLAPs in the `.pt` files of laion_clap, such as 630k-audioset-best.pt (Wu et al., 2023)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from safetensors.torch import save_file
from torch import Tensor, nn
from torchaudio.transforms import AmplitudeToDB, MelSpectrogram
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reward_server.laion_towers import LaionShape, LaionTowers, read_checkpoint
from reward_server.small_clap import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    content_hash,
    load_weights,
    put_weights,
    tokenizer_settings,
)
from rlcap.audio.long_clips import centre, shrunk_and_thirds
from rlcap.audio.resampling import resample
from rlcap.captioners.checkpoint_files import read_json
from rlcap.captioners.hf_checkpoints import local_directory, read_part
from rlcap.errors import CheckpointError
from rlcap.types import Clip

MAX_TOKENS = 77
"""Longer captions are cut, as by the library."""


class LaionClap(nn.Module):
    """The towers of a laion_clap checkpoint with RoBERTa's tokenizer.

    Clips up to 10 s are heard as the library hears them. It crops longer ones at random; here the crops are those of
    `long_clips`.
    """

    backend = "laion_clap"

    def __init__(self, towers: LaionTowers, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.towers = towers
        self.tokenizer = tokenizer
        audio = towers.audio_settings
        self._sample_rate_hz: int = audio["sample_rate"]
        self._num_samples: int = audio["clip_samples"]
        self._num_frames: int = audio["clip_samples"] // audio["hop_size"] + 1
        self._log_mel = nn.Sequential(_mel_spectrogram(audio), AmplitudeToDB())

    @classmethod
    def from_checkpoint(cls, path: Path, tokenizer: str | Path) -> LaionClap:
        """Read a `.pt` file, and the tokenizer that it was trained with from its own directory.

        Raises:
            CheckpointError: one of them is missing, damaged, or of another kind; or laion_clap is not installed.
        """
        weights = read_checkpoint(path)
        try:
            shape = LaionShape.of(weights)
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} holds no HTSAT beside a RoBERTa, as laion_clap has them: {error}") from error
        words = _read_tokenizer(tokenizer, shape.vocab_size)
        towers = LaionTowers(shape)
        put_weights(towers, weights, path)
        return cls(towers, words).eval()

    @property
    def embedding_dim(self) -> int:
        """Size of either embedding."""
        return self.towers.shape.embedding_dim

    @property
    def encoder_fingerprint(self) -> str:
        """Hash of what makes audio embeddings: features and audio tower."""
        audio = nn.ModuleList([self.towers.audio_branch, self.towers.audio_projection])
        return content_hash(_as_bytes(self.backend, self.towers.audio_settings), audio.state_dict())

    @property
    def fingerprint(self) -> str:
        """Hash of everything: sizes, features, words and weights."""
        words = tokenizer_settings(self.tokenizer)
        settings = _as_bytes(self.backend, asdict(self.towers.shape), self.towers.audio_settings, words)
        return content_hash(settings, self.towers.state_dict())

    @property
    def text_module(self) -> nn.Module:
        """RoBERTa, its pooler included."""
        module: nn.Module = self.towers.text_branch
        return module

    @torch.inference_mode()
    def embed_clips(self, clips: Sequence[Clip]) -> Float32[np.ndarray, "clip dim"]:
        """Embed clips of any sample rate, one by one, so that no other clip changes a bit; rows have length 1."""
        rows = [self.towers.embed_audio(self._hear(clip)) for clip in clips]
        embedded: Float32[np.ndarray, "clip dim"] = torch.cat(rows).cpu().numpy()
        return embedded

    def embed_captions(self, captions: Sequence[str]) -> Float[Tensor, "caption dim"]:
        """Embed captions, padded to the longest of them; rows have length 1."""
        tokens = self.tokenizer(
            list(captions), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        return self.towers.embed_tokens(tokens["input_ids"], tokens["attention_mask"])

    def save(self, directory: Path) -> None:
        """Write config.json, model.safetensors and the tokenizer's files into `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(directory)
        weights = {name: value.contiguous() for name, value in self.towers.state_dict().items()}
        save_file(weights, directory / WEIGHTS_FILE)
        config = {"backend": self.backend, **asdict(self.towers.shape)}
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> LaionClap:
        """Read what `save` wrote. Raises CheckpointError that names what is missing or differs."""
        path = directory / CONFIG_FILE
        try:
            fields = read_json(path)
            del fields["backend"]
            shape = LaionShape(**fields)
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{path} does not describe a CLAP of laion_clap: {error}") from error
        towers = LaionTowers(shape)
        load_weights(towers, directory / WEIGHTS_FILE)
        return cls(towers, _read_tokenizer(directory, shape.vocab_size)).eval()

    def _hear(self, clip: Clip) -> dict[str, Tensor]:
        """A clip as the library gives it to HTSAT: 16 bits deep, repeated up to 10 s; four spectrograms for fusion."""
        waveform = _as_int16(resample(clip.waveform, clip.sample_rate_hz, self._sample_rate_hz))
        if not self.towers.shape.is_fused:
            heard = _repeated(centre(waveform, self._num_samples), self._num_samples)
            return {"waveform": torch.from_numpy(heard)[None]}
        device = next(self.parameters()).device
        mel = self._log_mel(torch.from_numpy(_repeated(waveform, self._num_samples)).to(device)).T
        is_longer = len(mel) > self._num_frames
        mels = shrunk_and_thirds(mel, self._num_frames) if is_longer else mel.expand(4, -1, -1)
        return {"mel_fusion": mels[None], "longer": torch.tensor([[is_longer]])}


def _mel_spectrogram(audio: dict[str, Any]) -> nn.Module:
    spectrogram: nn.Module = MelSpectrogram(
        sample_rate=audio["sample_rate"],
        n_fft=audio["window_size"],
        hop_length=audio["hop_size"],
        n_mels=audio["mel_bins"],
        f_min=audio["fmin"],
        f_max=audio["fmax"],
    )
    return spectrogram


def _as_int16(waveform: Float32[np.ndarray, " sample"]) -> Float32[np.ndarray, " sample"]:
    """Round towards 0 as a file of 16 bits would, which is how the library was trained."""
    return ((np.clip(waveform, -1, 1) * 32767).astype(np.int16) / 32767.0).astype(np.float32)


def _repeated(waveform: Float32[np.ndarray, " sample"], num_samples: int) -> Float32[np.ndarray, " heard"]:
    """A short waveform as often as it fits whole, then zeros."""
    if len(waveform) >= num_samples:
        return waveform
    repeated = np.tile(waveform, num_samples // len(waveform))
    return np.pad(repeated, (0, num_samples - len(repeated)))


def _read_tokenizer(place: str | Path, vocab_size: int) -> PreTrainedTokenizerFast:
    tokenizer: PreTrainedTokenizerFast = read_part(AutoTokenizer, local_directory(place))
    if len(tokenizer) != vocab_size:
        raise CheckpointError(
            f"the CLAP expects {vocab_size} tokens, but the tokenizer in {place} has {len(tokenizer)}"
        )
    return tokenizer


def _as_bytes(*settings: object) -> bytes:
    return json.dumps(settings, sort_keys=True).encode()
