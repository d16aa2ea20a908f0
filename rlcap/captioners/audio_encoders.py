"""What a prefix captioner can hear with: the small tower, or the audio tower of a pretrained CLAP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn
from transformers import ClapAudioModel, ClapFeatureExtractor, ClapModel

from rlcap.audio.clap_input import clap_input
from rlcap.audio.features import LogMel, LogMelConfig
from rlcap.audio.tower import AudioTower
from rlcap.captioners.hf_checkpoints import load_model, read_part, save_model
from rlcap.captioners.master_weights import dtype_on_disk
from rlcap.config.precision import SaveDtype
from rlcap.types import Clip, PolicyFeatures

NUM_MARKS = 2
"""Columns behind the mels of a CLAP, the same in every frame: whether the clip is a long one, and its own share."""


class AudioEncoder(nn.Module, ABC):
    """Turns clips into steps in time order; neither padding nor other clips change what a clip becomes."""

    width: int
    """Size of a step."""

    @abstractmethod
    def inputs(self, clips: Sequence[Clip]) -> PolicyFeatures:
        """Compute what `forward` reads."""

    @abstractmethod
    def forward(
        self, frames: Float[Tensor, "clip frame dim"], mask: Bool[Tensor, "clip frame"]
    ) -> tuple[Float[Tensor, "clip step width"], Bool[Tensor, "clip step"]]:
        """Return steps, and which of them are real."""


class SmallEncoder(AudioTower, AudioEncoder):
    """The tower of the small CLAP over log-mel frames."""

    def __init__(self, features: LogMelConfig, channels: Sequence[int]) -> None:
        super().__init__(features.num_mels, channels)
        self._log_mel = LogMel(features)

    def inputs(self, clips: Sequence[Clip]) -> PolicyFeatures:
        """Compute log-mel frames."""
        return self._log_mel(clips)


class ClapEncoder(AudioEncoder):
    """HTSAT before its pooling (Chen et al., 2022; Wu et al., 2023): 32 steps for the ten seconds that it hears.

    Steps are averages over frequency. Of a shorter clip, which the library repeats, only the first pass counts.
    """

    def __init__(self, model: ClapAudioModel, extractor: ClapFeatureExtractor) -> None:
        super().__init__()
        self.model = model
        self._loaded_dtype = model.dtype
        self._extractor = extractor
        self._is_fused: bool = model.config.enable_fusion
        self._num_frames = extractor.nb_max_samples // extractor.hop_length + 1
        self.width = model.audio_encoder.num_features

    def inputs(self, clips: Sequence[Clip]) -> PolicyFeatures:
        """Compute mels, the channels of a model with fusion side by side, and two columns of marks."""
        frames = np.stack([self._frames(clip) for clip in clips])
        return PolicyFeatures(frames, np.ones(frames.shape[:2], dtype=bool))

    def forward(
        self,
        frames: Float[Tensor, "clip frame dim"],
        mask: Bool[Tensor, "clip frame"],  # noqa: ARG002 - every clip has as many frames
    ) -> tuple[Float[Tensor, "clip step width"], Bool[Tensor, "clip step"]]:
        """Hear the ten seconds that `inputs` filled."""
        frames = frames[:, : self._num_frames]
        mels, is_longer, own_share = frames.split([frames.shape[2] - NUM_MARKS, 1, 1], dim=2)
        channels = mels.unflatten(2, (-1, self._extractor.feature_size)).transpose(1, 2)  # [C, channel, F, M]
        heard = self.model(channels, is_longer=is_longer[:, 0] > 0.5).last_hidden_state
        steps = heard.mean(dim=2).transpose(1, 2)  # [C, T, D]
        num_own = (own_share[:, 0] * steps.shape[1]).ceil()
        return steps, torch.arange(steps.shape[1], device=steps.device) < num_own

    def save(self, directory: Path, dtype: SaveDtype) -> None:
        """Write tower and feature extractor, as `ClapAudioModel.from_pretrained` reads them."""
        save_model(self.model, directory, dtype_on_disk(dtype, self._loaded_dtype))
        self._extractor.save_pretrained(directory)

    @classmethod
    def load(cls, directory: Path) -> ClapEncoder:
        """Read what `save` wrote."""
        return cls(load_model(ClapAudioModel, directory), read_part(ClapFeatureExtractor, directory))

    @classmethod
    def of_clap(cls, directory: Path) -> ClapEncoder:
        """Take the audio tower out of a `ClapModel`."""
        return cls(load_model(ClapModel, directory).audio_model, read_part(ClapFeatureExtractor, directory))

    def _frames(self, clip: Clip) -> Float32[np.ndarray, "frame dim"]:
        heard = clap_input(self._extractor, clip, is_fused=self._is_fused)
        marks = torch.tensor([heard.is_longer, heard.own_share]).expand(self._num_frames, NUM_MARKS)
        frames: Float32[np.ndarray, "frame dim"] = torch.cat([*heard.mels, marks], dim=1).numpy()
        return frames
