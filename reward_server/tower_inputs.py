"""What the head reads during a fit: embeddings computed once, or again at every step by towers in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from reward_server.audio_tower import ClapAudioTower
from reward_server.clap import Clap
from reward_server.small_clap import SmallClap
from reward_server.text_tower import TextTower
from rlcap.config.reward import FinetuneTowers
from rlcap.types import PolicyFeatures

Rows = Int64[Tensor, " batch"]
Embed = Callable[[Rows], Float[Tensor, "batch dim"]]
TowerInput = tuple[Embed, list[nn.Parameter]]
"""How one side is embedded, and what of its tower is trained."""
HeardAudio = PolicyFeatures | Float32[np.ndarray, "clip dim"]
"""Log-mel frames for the small CLAP to hear; embeddings for every other, and where no audio tower is to be trained."""
CHUNK = 128
"""Clips or captions in one pass that needs no gradient."""


class TowerInputs:
    """Audio and text embeddings by number; within a call each distinct number is embedded once."""

    def __init__(self, embed_audio: Embed, embed_text: Embed, trainable: Sequence[nn.Parameter]) -> None:
        self._embed_audio = embed_audio
        self._embed_text = embed_text
        self.trainable = list(trainable)

    def audio(self, clips: Rows) -> Float[Tensor, "batch dim"]:
        """Embedding of each clip."""
        distinct, place = clips.unique(return_inverse=True)
        return self._embed_audio(distinct)[place]

    def text(self, captions: Rows) -> Float[Tensor, "batch dim"]:
        """Embedding of each caption."""
        distinct, place = captions.unique(return_inverse=True)
        return self._embed_text(distinct)[place]


def tower_inputs(clap: Clap, audio: HeardAudio, captions: Sequence[str], tunes: FinetuneTowers) -> TowerInputs:
    """Inputs from clips and captions; everything that `tunes` leaves out is computed once.

    Over embeddings, `tunes` is about the text tower alone. For `text_lora` the adapters are in place already.

    Raises:
        TypeError: these are log-mel frames, but this is no small CLAP.
        ValueError: the text tower of a pretrained CLAP is to be tuned.
    """
    if isinstance(audio, PolicyFeatures):
        if not isinstance(clap, SmallClap):
            raise TypeError(f"log-mel frames are for the small CLAP; give embeddings to {type(clap).__name__}")
        frames = torch.from_numpy(audio.frames), torch.from_numpy(audio.frame_mask)
        embed_audio, audio_weights = _tower_input(
            clap.audio_tower, len(audio.frames), lambda rows: (frames[0][rows], frames[1][rows]), tunes
        )
    else:
        embed_audio, audio_weights = _fixed(torch.from_numpy(audio)), []
    if tunes is FinetuneTowers.text_lora:
        embed_text, text_weights = _adapted_text_input(clap, captions)
    elif isinstance(clap, SmallClap):
        embed_text, text_weights = _text_input(clap, captions, tunes)
    elif tunes is FinetuneTowers.none:
        text = _once(lambda rows: clap.embed_captions([captions[row] for row in rows.tolist()]), len(captions))
        embed_text, text_weights = _fixed(text), []
    else:
        raise ValueError(
            f"finetune_towers must be none or text_lora for a fit over a pretrained CLAP, got {tunes.value}"
        )
    return TowerInputs(embed_audio, embed_text, [*audio_weights, *text_weights])


def _text_input(clap: SmallClap, captions: Sequence[str], tunes: FinetuneTowers) -> TowerInput:
    tokens, token_mask = clap.tokenize(captions)

    def cut(rows: Rows) -> tuple[Tensor, Tensor]:
        longest = int(token_mask[rows].sum(dim=1).max())
        return tokens[rows, :longest], token_mask[rows, :longest]

    return _tower_input(clap.text_tower, len(tokens), cut, tunes)


def _adapted_text_input(clap: Clap, captions: Sequence[str]) -> TowerInput:
    def embed(rows: Rows) -> Float[Tensor, "batch dim"]:
        chunks = [[captions[row] for row in chunk.tolist()] for chunk in rows.split(CHUNK)]
        embedded = torch.cat([clap.embed_captions(chunk) for chunk in chunks])
        if torch.is_grad_enabled() and not embedded.requires_grad:
            raise TypeError(f"{type(clap).__name__}.embed_captions lets no gradient through to its adapters")
        return embedded

    return embed, [weights for weights in clap.text_module.parameters() if weights.requires_grad]


def _tower_input(
    tower: ClapAudioTower | TextTower,
    num_rows: int,
    read: Callable[[Rows], tuple[Tensor, Tensor]],
    tunes: FinetuneTowers,
) -> TowerInput:
    if tunes is FinetuneTowers.all:
        return lambda rows: tower(*read(rows)), list(tower.parameters())
    pooled = _once(lambda rows: tower.pool(*read(rows)), num_rows)
    if tunes is FinetuneTowers.projections:
        return lambda rows: tower.projection(pooled[rows]), list(tower.projection.parameters())
    with torch.no_grad():
        return _fixed(tower.projection(pooled)), []


def _fixed(embedded: Float[Tensor, "row dim"]) -> Embed:
    return lambda rows: embedded[rows]


@torch.no_grad()
def _once(embed: Embed, num_rows: int) -> Float[Tensor, "row width"]:
    return torch.cat([embed(rows) for rows in torch.arange(num_rows).split(CHUNK)])
