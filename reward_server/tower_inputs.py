"""What the head reads during a fit: embeddings computed once, or again at every step by towers in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from reward_server.clap import Clap
from reward_server.small_clap import SmallClap
from rlcap.config.reward import FinetuneTowers
from rlcap.types import PolicyFeatures

Rows = Int64[Tensor, " batch"]
Embed = Callable[[Rows], Float[Tensor, "batch dim"]]
HeardAudio = PolicyFeatures | Float32[np.ndarray, "clip dim"]
"""Log-mel frames for the small CLAP, embeddings for every other."""
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

    Raises:
        TypeError: these are log-mel frames, but this is no small CLAP.
        ValueError: towers are to be tuned on embeddings.
    """
    if isinstance(audio, PolicyFeatures):
        if not isinstance(clap, SmallClap):
            raise TypeError(f"log-mel frames are for the small CLAP; give embeddings to {type(clap).__name__}")
        return _small_clap_inputs(clap, audio, captions, tunes)
    if tunes is not FinetuneTowers.none:
        raise ValueError(f"finetune_towers must be none for a fit on embeddings, got {tunes.value}")
    text = _once(lambda rows: clap.embed_captions([captions[row] for row in rows.tolist()]), len(captions))
    return _fixed_inputs(torch.from_numpy(audio), text)


def _small_clap_inputs(
    clap: SmallClap, features: PolicyFeatures, captions: Sequence[str], tunes: FinetuneTowers
) -> TowerInputs:
    frames, frame_mask = torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask)
    tokens, token_mask = clap.tokenize(captions)

    def audio_rows(rows: Rows) -> tuple[Tensor, Tensor]:
        return frames[rows], frame_mask[rows]

    def text_rows(rows: Rows) -> tuple[Tensor, Tensor]:
        longest = int(token_mask[rows].sum(dim=1).max())
        return tokens[rows, :longest], token_mask[rows, :longest]

    audio, text = clap.audio_tower, clap.text_tower
    if tunes is FinetuneTowers.all:
        trainable = [*audio.parameters(), *text.parameters()]
        return TowerInputs(lambda rows: audio(*audio_rows(rows)), lambda rows: text(*text_rows(rows)), trainable)
    pooled_audio = _once(lambda rows: audio.pool(*audio_rows(rows)), len(frames))
    pooled_text = _once(lambda rows: text.pool(*text_rows(rows)), len(tokens))
    if tunes is FinetuneTowers.projections:
        trainable = [*audio.projection.parameters(), *text.projection.parameters()]
        return TowerInputs(
            lambda rows: audio.projection(pooled_audio[rows]),
            lambda rows: text.projection(pooled_text[rows]),
            trainable,
        )
    with torch.no_grad():
        return _fixed_inputs(audio.projection(pooled_audio), text.projection(pooled_text))


def _fixed_inputs(audio: Float[Tensor, "clip dim"], text: Float[Tensor, "caption dim"]) -> TowerInputs:
    return TowerInputs(lambda rows: audio[rows], lambda rows: text[rows], [])


@torch.no_grad()
def _once(embed: Embed, num_rows: int) -> Float[Tensor, "row width"]:
    return torch.cat([embed(rows) for rows in torch.arange(num_rows).split(CHUNK)])
