"""The transformer between audio and language model, where a linear map is too little (ClipCap's second mapper)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

INITIAL_SCALE = 0.02
"""Of learned vectors, as in GPT-2."""


class PrefixTransformer(nn.Module):
    """Learned constants read the projected audio; what becomes of them is the prefix (Mokady et al., 2021, 3.2)."""

    def __init__(self, width: int, length: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.places = nn.Parameter(INITIAL_SCALE * torch.randn(length, width))
        self.constants = nn.Parameter(INITIAL_SCALE * torch.randn(length, width))
        self.layers = nn.Sequential(*(_layer(width, dropout) for _ in range(num_layers)))

    def forward(self, audio: Float[Tensor, "clip position dim"]) -> Float[Tensor, "clip position dim"]:
        """Return as many vectors as come in."""
        constants = self.constants.expand(len(audio), -1, -1)
        read: Tensor = self.layers(torch.cat([audio + self.places, constants], dim=1))
        return read[:, audio.shape[1] :]


def _layer(width: int, dropout: float) -> nn.TransformerEncoderLayer:
    num_heads = math.gcd(width, 8)  # ClipCap's eight, wherever they divide the width
    return nn.TransformerEncoderLayer(
        width, num_heads, 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True
    )
