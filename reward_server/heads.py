"""Heads: what turns an audio and a text embedding into one score."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rlcap.config.reward import Ensemble, HeadConfig, HeadKind

MIN_DEVIATION = 1e-4


class MlpHead(nn.Module):
    """Both embeddings, concatenated, through an MLP: 2 * dim, 512, 128, 1 in the paper (Hegde et al., 2025).

    Embeddings are L2-normalised and standardised by statistics of the training data first. With `hears_audio`
    off the audio half is zero: a control that shows what can be had from the text alone.
    """

    def __init__(
        self, dim: int, hidden_sizes: Sequence[int], dropout: float = 0.0, *, hears_audio: bool = True
    ) -> None:
        super().__init__()
        self.hears_audio = hears_audio
        self.hidden_sizes = list(hidden_sizes)
        self.register_buffer("mean", torch.zeros(2, dim))
        self.register_buffer("scale", torch.ones(2, dim))
        self.first = nn.Linear(2 * dim, hidden_sizes[0])
        layers: list[nn.Module] = []
        for before, after in pairwise([*hidden_sizes, 1]):
            layers += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(before, after)]
        self.rest = nn.Sequential(*layers)

    mean: Tensor
    scale: Tensor

    @property
    def kind(self) -> HeadKind:
        """Name of this head in the settings."""
        return HeadKind.mlp if self.hears_audio else HeadKind.text_only

    def fit_input_scale(self, audio: Float[Tensor, "clip dim"], text: Float[Tensor, "caption dim"]) -> None:
        """Standardise by the mean and deviation of these embeddings; a single one has no deviation to go by."""
        for side, embeddings in enumerate((audio, text)):
            unit = functional.normalize(embeddings, dim=1)
            self.mean[side] = unit.mean(dim=0)
            if len(unit) > 1:
                self.scale[side] = 1 / unit.std(dim=0).clamp(min=MIN_DEVIATION)

    @torch.no_grad()
    def start_as_matcher(self, audio: Float[Tensor, "pair dim"], text: Float[Tensor, "pair dim"]) -> None:
        """Let the first layer look at a + t and a - t along the axes on which matching audio and text vary together.

        Rectified, with both signs, these give |a + t| and |a - t|, whose difference grows with the product of a and
        t: the MLP starts where matching is easy to express, instead of having to find it in a few thousand pairs.
        """
        first = self.first
        heard, read = self._standardised(audio, text)
        audio_axes, _, text_axes = torch.linalg.svd(heard.T @ read / len(heard))
        num_axes = min(first.out_features // 4, heard.shape[1])
        heard_along, read_along = audio_axes[:, :num_axes].T, text_axes[:num_axes]
        rows = [
            torch.cat([sign * heard_along, sign * side * read_along], dim=1) for side in (1, -1) for sign in (1, -1)
        ]
        first.weight[: 4 * num_axes] = torch.cat(rows)
        first.bias.zero_()

    @torch.no_grad()
    def shift(self, amount: float) -> None:
        """Add `amount` to every score."""
        *_, last_bias = self.rest.parameters()
        last_bias.add_(amount)

    def forward(self, audio: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """Raw score of each row."""
        scores: Tensor = self.rest(self.first(torch.cat(self._standardised(audio, text), dim=1)))
        return scores.squeeze(1)

    def _standardised(self, audio: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        heard = (functional.normalize(audio, dim=1) - self.mean[0]) * self.scale[0]
        read = (functional.normalize(text, dim=1) - self.mean[1]) * self.scale[1]
        return (heard if self.hears_audio else torch.zeros_like(heard)), read


class CosineHead(nn.Module):
    """Cosine of the two embeddings: the zero-shot reward of a CLAP, in [-1, 1]."""

    kind = HeadKind.cosine
    hidden_sizes: tuple[int, ...] = ()

    def forward(self, audio: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """Score each row."""
        return functional.cosine_similarity(audio, text, dim=1)


class EnsembleHead(nn.Module):
    """Several MLP heads over the same embeddings, whose scores become one.

    An answer that exploits the faults of one head rarely fools all of them (Coste et al., 2024, Reward Model Ensembles
    Help Mitigate Overoptimization).
    """

    def __init__(self, members: Sequence[MlpHead], ensemble: Ensemble, std_weight: float = 1.0) -> None:
        super().__init__()
        self.members: Sequence[MlpHead] = nn.ModuleList(members)  # type: ignore[assignment]  # it forgets their type
        self.kind = members[0].kind
        self.hidden_sizes = members[0].hidden_sizes
        self.ensemble = ensemble
        self.std_weight = std_weight

    def forward(self, audio: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """Score each row."""
        scores = torch.stack([member(audio, text) for member in self.members])
        if self.ensemble is Ensemble.minimum:
            return scores.amin(dim=0)
        if self.ensemble is Ensemble.mean_minus_std:
            return scores.mean(dim=0) - self.std_weight * scores.std(dim=0, correction=0)
        return scores.mean(dim=0)


Head = MlpHead | CosineHead | EnsembleHead


def build_head(config: HeadConfig, dim: int, *, seed: int) -> Head:
    """New head, its weights drawn from `seed`; those of an ensemble from `member_seeds`."""
    if config.kind is HeadKind.cosine:
        return CosineHead()
    if config.num_members == 1:
        return _build_mlp(config, dim, seed)
    members = [_build_mlp(config, dim, own) for own in member_seeds(seed, config.num_members)]
    return EnsembleHead(members, config.ensemble, config.std_weight)


def member_seeds(seed: int, num_members: int) -> list[int]:
    """A seed for each head of an ensemble; further members leave those of the first ones as they are."""
    return [int(drawn) for drawn in np.random.SeedSequence(seed).generate_state(num_members)]


def _build_mlp(config: HeadConfig, dim: int, seed: int) -> MlpHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MlpHead(dim, config.hidden_sizes, config.dropout, hears_audio=config.kind is HeadKind.mlp)
