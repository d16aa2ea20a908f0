"""Random changes to log-mel frames that leave the caption true."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MAX_GAIN = 0.5
"""Largest shift of a clip's log-mel values, in units of the normalised features."""
MASKED_MELS, MASKED_SHARE = 8, 0.08
"""Widest masked mel band, and longest masked stretch as a share of the frames."""


def augment_frames(
    frames: Float[Tensor, "clip frame mel"], frame_mask: Bool[Tensor, "clip frame"], generator: torch.Generator
) -> Float[Tensor, "clip frame mel"]:
    """Vary the gain and mask one band and two stretches of time (SpecAugment: Park et al., 2019)."""
    num_clips, num_frames, num_mels = frames.shape
    gain = MAX_GAIN * (2 * torch.rand(num_clips, 1, 1, generator=generator) - 1)
    changed = frames + gain
    masked = _stretches(num_clips, num_mels, MASKED_MELS, generator)[:, None, :]
    for _ in range(2):
        masked = masked | _stretches(num_clips, num_frames, int(MASKED_SHARE * num_frames), generator)[:, :, None]
    floor = changed.masked_fill(~frame_mask[:, :, None], torch.inf).amin(dim=(1, 2), keepdim=True)
    return torch.where(masked, floor, changed)


def _stretches(num_clips: int, length: int, widest: int, generator: torch.Generator) -> Bool[Tensor, "clip length"]:
    width = torch.rand(num_clips, 1, generator=generator) * widest
    start = torch.rand(num_clips, 1, generator=generator) * (length - width)
    position = torch.arange(length)
    return (position >= start) & (position < start + width)
