"""What every captioner family must give: the contract of sampler, learner and evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlcap.types import Clip, PolicyFeatures


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the decoder knows of C clips; made once per clip and shared by its whole group."""

    states: Float[Tensor, "clip position dim"]


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """A teacher-forced pass over given captions."""

    log_probs: Float[Tensor, "batch token"]
    """Of the given tokens, at the temperature asked for; 0 outside the action mask."""
    values: Float[Tensor, "batch token"]
    """Of the state before each token; never sees the temperature; 0 outside the action mask."""
    entropy: Float[Tensor, "batch token"]
    """Of the distribution each token was drawn from; 0 outside the action mask."""


class DecoderState(Protocol):
    """The growing captions of B rollouts, one row each."""

    def select_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows."""
        ...


class Captioner(nn.Module, ABC):
    """An audio captioner that can be sampled, scored and tuned.

    Hidden states are the decoder's last layer; `logits` and `value` read them. Subclasses say how features,
    encoding and decoding work; sampling and scoring are built on these alone.
    """

    eos_token_id: int
    pad_token_id: int

    @abstractmethod
    def features(self, clips: Sequence[Clip]) -> PolicyFeatures:
        """Compute what `encode` reads, at the captioner's own sample rate."""

    @abstractmethod
    def encode(self, frames: Float[Tensor, "clip frame mel"], frame_mask: Bool[Tensor, "clip frame"]) -> Encoding:
        """Encode C clips, once each."""

    @abstractmethod
    def begin(
        self, encoding: Encoding, clip_index: Int[Tensor, " batch"], max_new_tokens: int
    ) -> tuple[DecoderState, Float[Tensor, "batch dim"]]:
        """Start B captions; return their state and the hidden states that predict their first tokens."""

    @abstractmethod
    def step(self, state: DecoderState, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """Append one token to every row; return the hidden states that predict the next."""

    @abstractmethod
    def hidden_states(
        self, encoding: Encoding, clip_index: Int[Tensor, " batch"], tokens: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token dim"]:
        """Teacher-force `tokens`; position t holds the hidden state that predicts token t."""

    @abstractmethod
    def logits(self, hidden: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
        """Unnormalised next-token scores, before any temperature."""

    @abstractmethod
    def value(self, hidden: Float[Tensor, "... dim"]) -> Float[Tensor, ...]:
        """The critic's estimate of the return from this state."""

    @abstractmethod
    def decode(self, tokens: Int[Tensor, "batch token"], action_mask: Bool[Tensor, "batch token"]) -> tuple[str, ...]:
        """Turn tokens into text, special tokens left out."""

    @abstractmethod
    def tokenize(self, captions: Sequence[str]) -> tuple[Int[Tensor, "batch token"], Bool[Tensor, "batch token"]]:
        """Turn captions into right-padded tokens, each closed by the end-of-sequence token, and their mask."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write the captioner in Hugging Face layout, the value head in a file of its own."""

    def log_probs(
        self,
        encoding: Encoding,
        clip_index: Int[Tensor, " batch"],
        tokens: Int[Tensor, "batch token"],
        action_mask: Bool[Tensor, "batch token"],
        temperature: float,
    ) -> PolicyOutput:
        """Score given captions: log-probs and entropy at `temperature`, values without it."""
        known = torch.where(action_mask, tokens, self.pad_token_id)
        hidden = self.hidden_states(encoding, clip_index, known)
        # Only real tokens reach the vocabulary projection, the widest product of a small model.
        chosen = hidden[action_mask]  # [N, D]
        log_softmax = torch.log_softmax(self.logits(chosen).float() / temperature, dim=-1)
        log_probs = log_softmax.gather(-1, known[action_mask].unsqueeze(-1)).squeeze(-1)
        entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)
        return PolicyOutput(
            log_probs=_scatter(log_probs, action_mask),
            values=_scatter(self.value(chosen).float(), action_mask),
            entropy=_scatter(entropy, action_mask),
        )


def _scatter(flat: Float[Tensor, " valid"], mask: Bool[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)
