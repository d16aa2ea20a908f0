"""The small audio tower: what the built-in CLAP hears with, and what the built-in captioner starts from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

FRAMES_PER_STEP = 16
"""Frames behind one step of the tower's output."""


class AudioTower(nn.Module):
    """Convolutions over log-mel frames, `[C, F, M]` to `[C, T, 2 * channels[-1]]` with T = ceil(F / 16).

    Convolutions share their weights over frequency, which recognises sounds at any pitch: on the built-in
    soundscapes this halves the errors of convolutions over time alone. The mask is applied at every resolution and
    batch statistics are used in training only, so in evaluation a clip sounds the same whatever it is padded to.
    """

    def __init__(self, num_mels: int, channels: Sequence[int]) -> None:
        super().__init__()
        if len(channels) != 4:
            raise ValueError(f"the audio tower has 4 stages, got {len(channels)} channel counts: {list(channels)}")
        self.width = 2 * channels[-1]
        self.register_buffer("mel_mean", torch.zeros(num_mels))
        self.register_buffer("mel_scale", torch.ones(num_mels))
        inputs = [1, *channels[:-1]]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)
            for before, after in zip(inputs, channels, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for after in channels)
        # Twice as fast as the default on CPUs; torch's stub lacks the argument.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    mel_mean: Tensor
    mel_scale: Tensor

    def fit_input_scale(self, frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"]) -> None:
        """Standardise each mel band by its mean and deviation over these real frames."""
        real = frames[mask]
        self.mel_mean.copy_(real.mean(dim=0))
        self.mel_scale.copy_(1 / real.std(dim=0).clamp(min=1e-3))

    def forward(
        self, frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"]
    ) -> tuple[Float[Tensor, "clip step dim"], Bool[Tensor, "clip step"]]:
        """Return steps in time order, and which of them are real."""
        frames, mask = _pad_to_whole_steps(frames, mask)
        hidden = torch.where(mask[:, :, None], (frames - self.mel_mean) * self.mel_scale, 0.0).unsqueeze(1)
        hidden, mask = functional.avg_pool2d(hidden, (2, 1)), mask[:, ::2]
        for stage, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            pool = (2, 2) if stage < 3 else (1, 2)
            hidden = functional.relu(norm(functional.max_pool2d(convolution(hidden), pool)))  # pooling first: cheaper
            mask = mask[:, :: pool[0]]
            hidden = torch.where(mask[:, None, :, None], hidden, 0.0)  # [C, channel, T, M / 2 ** stage]
        return torch.cat([hidden.mean(dim=3), hidden.amax(dim=3)], dim=1).transpose(1, 2), mask


def pool_segments(
    steps: Float[Tensor, "clip step dim"], mask: Bool[Tensor, "clip step"], num_segments: int
) -> Float[Tensor, "clip segment dim"]:
    """Average over triangular windows, spread evenly from each clip's first real step to its last."""
    length = mask.sum(dim=1, keepdim=True).clamp(min=2)
    place = torch.arange(mask.shape[1], device=mask.device) / (length - 1)  # [C, T]
    spacing = 1 / max(num_segments - 1, 1)
    centres = torch.arange(num_segments, device=mask.device) * spacing
    windows = (1 - (place[:, None, :] - centres[None, :, None]).abs() / spacing).clamp(min=0)
    # A clip shorter than its segments leaves some without a step of their own: those take the nearest.
    windows = windows + 1e-3 * torch.exp(-4 * (place[:, None, :] - centres[None, :, None]).abs() / spacing)
    windows = torch.where(mask[:, None, :], windows, 0.0)
    shares = windows / windows.sum(dim=2, keepdim=True).clamp(min=1e-9)
    return shares.to(steps.dtype) @ steps


def _pad_to_whole_steps(
    frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"]
) -> tuple[Float[Tensor, "clip padded mel"], Bool[Tensor, "clip padded"]]:
    missing = -frames.shape[1] % FRAMES_PER_STEP
    return functional.pad(frames, (0, 0, 0, missing)), functional.pad(mask, (0, missing))
