"""The captioner as its authors would have it: a convolutional encoder and a transformer decoder, nothing of rlcap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class DcaseConfig:
    """The architecture, as `config.json` holds it."""

    vocab_size: int
    num_mels: int = 64
    channels: tuple[int, ...] = (32, 64, 128)
    """Each block of the encoder halves both axes of the spectrogram."""
    width: int = 128
    num_layers: int = 2
    num_heads: int = 4
    max_tokens: int = 64
    dropout: float = 0.1


class DcaseNetwork(nn.Module):
    """Log-mel frames to memory, and tokens to hidden states that predict the next."""

    def __init__(self, config: DcaseConfig) -> None:
        super().__init__()
        outputs, mels = config.channels, config.num_mels // 2 ** len(config.channels)
        self.blocks = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1)
            for before, after in zip((1, *outputs), outputs, strict=False)
        )
        self.to_memory = nn.Sequential(nn.LayerNorm(outputs[-1] * mels), nn.Linear(outputs[-1] * mels, config.width))
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.max_tokens, config.width)
        layer = nn.TransformerDecoderLayer(
            config.width, config.num_heads, 4 * config.width, config.dropout, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, config.num_layers, norm=nn.LayerNorm(config.width))
        self.vocabulary = nn.Linear(config.width, config.vocab_size)

    def encode(
        self, frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"]
    ) -> tuple[Float[Tensor, "clip position dim"], Bool[Tensor, "clip position"]]:
        """Hear clips; a block reads zeros where the mask is False, as it does beyond the end of a clip."""
        hidden = frames.unsqueeze(1)  # [C, 1, F, M]
        for block in self.blocks:
            hidden = block(hidden.masked_fill(~mask[:, None, :, None], 0.0)).relu()
            mask = mask[:, ::2]
        return self.to_memory(hidden.permute(0, 2, 1, 3).flatten(2)), mask

    def decode(
        self,
        memory: Float[Tensor, "batch position dim"],
        memory_mask: Bool[Tensor, "batch position"],
        tokens: Int[Tensor, "batch token"],
    ) -> Float[Tensor, "batch token dim"]:
        """Read tokens, each of which sees itself and those before it."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        embedded = self.token_embedding(tokens) + self.position_embedding(positions)
        future = torch.ones(len(positions), len(positions), dtype=torch.bool, device=tokens.device).triu(1)
        return self.decoder(embedded, memory, tgt_mask=future, memory_key_padding_mask=~memory_mask)
