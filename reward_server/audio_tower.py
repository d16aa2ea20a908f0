"""The audio tower of the small CLAP: strided convolutions over log-mel frames, then pooling that keeps order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from reward_server.transformer import TransformerLayer, masked_mean

FIRST_STRIDE, STRIDE = 4, 2


class AudioTower(nn.Module):
    """Log-mel frames to one embedding. Padding does not change it: every mean is over real frames only."""

    def __init__(self, num_mels: int, channels: Sequence[int], num_segments: int, num_heads: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mel_mean", torch.zeros(num_mels))
        self.register_buffer("mel_scale", torch.ones(num_mels))
        self.stages = nn.ModuleList(
            _Stage(before, after, FIRST_STRIDE if stage == 0 else STRIDE)
            for stage, (before, after) in enumerate(pairwise([num_mels, *channels]))
        )
        width = channels[-1]
        self._num_segments = num_segments
        self.position_proj = nn.Linear(2 * num_segments, width)
        self.layer = TransformerLayer(width, num_heads)
        self.norm = nn.LayerNorm(width)
        self.attention_scores = nn.Linear(width, num_heads)
        self._num_pooled = num_segments + num_heads
        self.projection = nn.Sequential(nn.Linear(self._num_pooled * width, dim), nn.GELU(), nn.Linear(dim, dim))

    mel_mean: Tensor
    mel_scale: Tensor

    def fit_input_scale(self, frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"]) -> None:
        """Standardise each mel band by its mean and deviation over these real frames."""
        real = frames[mask]
        self.mel_mean.copy_(real.mean(dim=0))
        self.mel_scale.copy_(1 / real.std(dim=0).clamp(min=1e-3))

    def forward(
        self, frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"]
    ) -> Float[Tensor, "clip dim"]:
        """Embed each clip; the embedding is not normalised."""
        embedded: Tensor = self.projection(self.pool(frames, mask))
        return embedded

    def pool(
        self, frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"]
    ) -> Float[Tensor, "clip pooled"]:
        """Everything up to the projection."""
        hidden = (frames - self.mel_mean) * self.mel_scale
        for stage in self.stages:
            hidden, mask = stage(hidden, mask)
        segments = self._segment_weights(mask)
        places = torch.cat([segments, segments.square()], dim=1).transpose(1, 2)
        hidden = self.norm(self.layer(hidden + self.position_proj(places), mask))
        scores = self.attention_scores(hidden).masked_fill(~mask[..., None], -torch.inf)
        weights = torch.cat([segments, scores.softmax(dim=1).transpose(1, 2)], dim=1)
        pooled = [masked_mean(hidden, weights[:, row]) for row in range(self._num_pooled)]
        return torch.cat(pooled, dim=1)

    def _segment_weights(self, mask: Bool[Tensor, "clip step"]) -> Float[Tensor, "clip segment step"]:
        """Triangular windows spread evenly over the real steps of each clip, from its first to its last."""
        length = mask.sum(dim=1, keepdim=True).clamp(min=2)
        place = torch.arange(mask.shape[1], device=mask.device) / (length - 1)
        spacing = 1 / max(self._num_segments - 1, 1)
        centres = torch.arange(self._num_segments, device=mask.device) * spacing
        windows = 1 - (place[:, None, :] - centres[None, :, None]).abs() / spacing
        return torch.where(mask[:, None, :], windows.clamp(min=0), 0.0)


class _Stage(nn.Module):
    """Lower the frame rate. Norms are over channels, never over time, so padding cannot leak into real frames."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, kernel_size=stride + 3, stride=stride)
        self.norm = nn.LayerNorm(channels_out)
        self._stride = stride

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        real = torch.where(mask[..., None], frames, 0.0)
        # One step for every started stretch of `stride` frames, whatever the clip is padded to.
        padded = functional.pad(real.transpose(1, 2), (2, self._stride))
        convolved = self.conv(padded).transpose(1, 2)
        return functional.gelu(self.norm(convolved)), mask[:, :: self._stride]
