"""Log-mel frames: what the small captioner and the small CLAP hear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torchaudio.transforms import MelSpectrogram

from rlcap.audio.resampling import resample, to_tensor
from rlcap.types import Clip, PolicyFeatures


@dataclass(frozen=True, slots=True)
class LogMelConfig:
    """The log-mel spectrogram and its fixed normalisation, saved with every model that is trained on it."""

    sample_rate_hz: int = 16_000
    n_fft: int = 1024
    hop: int = 320
    num_mels: int = 64
    f_min: float = 50.0
    f_max: float = 8_000.0
    max_duration_s: float = 30.0
    """Of a longer clip, the beginning is heard."""
    floor: float = 1e-6
    """Added to mel power before the natural logarithm."""
    mean: float = -2.0
    """Subtracted from log power; fixed, so that a clip's features depend on nothing but the clip."""
    std: float = 4.0
    """Divides log power after `mean` is subtracted."""


class LogMel:
    """Computes padded log-mel frames of clips at any sample rate, on the CPU."""

    def __init__(self, config: LogMelConfig) -> None:
        self.config = config
        # Zeros beyond both ends: reflection needs clips longer than half a window.
        self._mel = MelSpectrogram(
            config.sample_rate_hz,
            n_fft=config.n_fft,
            hop_length=config.hop,
            f_min=config.f_min,
            f_max=config.f_max,
            n_mels=config.num_mels,
            pad_mode="constant",
        )

    def __call__(self, clips: Sequence[Clip]) -> PolicyFeatures:
        """Compute one frame each `hop` samples, `1 + samples // hop` a clip; padding holds zeros.

        Raises:
            ValueError: there are no clips.
        """
        if not clips:
            raise ValueError("features need at least one clip, got none")
        # One by one: products of matrices round differently in batches of another shape.
        spectrograms = [self._log_mel(clip) for clip in clips]
        lengths = np.array([len(spectrogram) for spectrogram in spectrograms])
        frames = np.zeros((len(clips), lengths.max(), self.config.num_mels), dtype=np.float32)
        for row, spectrogram in zip(frames, spectrograms, strict=True):
            row[: len(spectrogram)] = spectrogram
        return PolicyFeatures(frames, np.arange(lengths.max()) < lengths[:, None])

    def _log_mel(self, clip: Clip) -> Float32[np.ndarray, "frame mel"]:
        config = self.config
        heard = clip.waveform[: round(config.max_duration_s * clip.sample_rate_hz)]
        waveform = resample(heard, clip.sample_rate_hz, config.sample_rate_hz)
        with torch.inference_mode():
            power = self._mel(to_tensor(waveform)).T
            normalised = power.add_(config.floor).log_().sub_(config.mean).div_(config.std)
        frames: Float32[np.ndarray, "frame mel"] = normalised.numpy()
        return frames
