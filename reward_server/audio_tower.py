"""The audio side of the small CLAP: the shared tower, then pooling that keeps the order of sounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlcap.audio.tower import AudioTower, pool_segments


class ClapAudioTower(nn.Module):
    """Log-mel frames to one embedding. Padding does not change it: every step that is pooled is real."""

    def __init__(self, num_mels: int, channels: Sequence[int], num_segments: int, dim: int) -> None:
        super().__init__()
        self.tower = AudioTower(num_mels, channels)
        self._num_segments = num_segments
        self.projection = nn.Sequential(
            nn.Linear((num_segments + 2) * self.tower.width, dim), nn.GELU(), nn.Linear(dim, dim)
        )

    def forward(
        self, frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"]
    ) -> Float[Tensor, "clip dim"]:
        """Embed each clip; the embedding is not normalised."""
        embedded: Tensor = self.projection(self.pool(frames, mask))
        return embedded

    def pool(
        self, frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"]
    ) -> Float[Tensor, "clip pooled"]:
        """Everything up to the projection: segments in time order, mean and maximum of the whole clip."""
        steps, mask = self.tower(frames, mask)
        segments = pool_segments(steps, mask, self._num_segments).flatten(1)
        mean = torch.where(mask[:, :, None], steps, 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        peak = torch.where(mask[:, :, None], steps, -torch.inf).amax(dim=1)
        return torch.cat([segments, mean, peak], dim=1)
