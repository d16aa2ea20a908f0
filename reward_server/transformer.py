"""A pre-norm transformer layer over masked steps, shared by the two towers of the small CLAP."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward net, each behind a layer norm (Xiong et al., 2020)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(
        self, steps: Float[Tensor, "batch step width"], mask: Bool[Tensor, "batch step"]
    ) -> Float[Tensor, "batch step width"]:
        """Mix steps where `mask` is True; masked steps are never read."""
        batch, length, width = steps.shape
        projected = self.query_key_value(self.attention_norm(steps))
        query, key, value = projected.view(batch, length, 3, self._num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        steps = steps + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
        fed: Tensor = steps + self.feed_forward(steps)
        return fed


def masked_mean(
    steps: Float[Tensor, "batch step width"], weights: Float[Tensor, "batch step"]
) -> Float[Tensor, "batch width"]:
    """Average over steps by non-negative weights; zero where all weights are zero."""
    total = weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return torch.einsum("bsw,bs->bw", steps, weights) / total
