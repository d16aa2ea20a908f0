"""What pretrained CLAPs hear of clips beyond their length: always the same, where their libraries crop at random."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional


def centre(waveform: Float32[np.ndarray, " sample"], num_samples: int) -> Float32[np.ndarray, " heard"]:
    """The `num_samples` in the middle; shorter waveforms are returned as they are."""
    overflow = max(len(waveform) - num_samples, 0)
    return waveform[overflow // 2 :][:num_samples]


def shrunk_and_thirds(mel: Float[Tensor, "frame mel"], num_frames: int) -> Float[Tensor, "4 heard mel"]:
    """The fusion input of a clip of more than `num_frames` (Wu et al., 2023).

    The first channel is the whole, shrunk without smoothing as in the training of the released weights; the others are
    crops, each the middle one of those that the libraries could draw from the first, second and last third.
    """
    thirds = np.array_split(np.arange(len(mel) - num_frames + 1), 3)
    starts = [int(third[len(third) // 2]) if len(third) else 0 for third in thirds]
    shrunk = functional.interpolate(mel[None, None], size=[num_frames, mel.shape[1]], mode="bilinear")[0, 0]
    return torch.stack([shrunk, *(mel[start : start + num_frames] for start in starts)])
