"""What every captioner family must give: the contract of sampler, learner and evaluation.

A family of your own implements `features`, `encode`, `hidden_states`, `logits`, `save` and `load`; the rest builds on
these. `begin` and `step` are worth writing as well: without them every token reads its whole caption again.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from jaxtyping import Bool, Float, Int
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlcap.captioners.token_scores import score_in_pieces
from rlcap.errors import CheckpointError
from rlcap.types import Clip, PolicyFeatures

FORBIDDEN = -1e9
"""The logit of a token that is never written: finite, since 0 * inf has no value."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the decoder knows of C clips; made once per clip and shared by its whole group."""

    states: Float[Tensor, "clip position dim"]
    mask: Bool[Tensor, "clip position"] | None = None
    """False on padding; None where there is none."""


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """A teacher-forced pass over given captions."""

    log_probs: Float[Tensor, "batch token"]
    """Of the given tokens, under the distribution they were drawn from; 0 outside the action mask."""
    values: Float[Tensor, "batch token"]
    """Of the state before each token; never sees the temperature; 0 outside the action mask."""
    entropy: Float[Tensor, "batch token"]
    """Of the distribution each token was drawn from; 0 outside the action mask."""


class DecoderState(Protocol):
    """The growing captions of B rollouts, one row each."""

    can_shrink: ClassVar[bool]
    """Whether finished rows may leave."""

    def select_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows."""
        ...


class Captioner(nn.Module, ABC):
    """An audio captioner that can be sampled, scored and tuned.

    Hidden states are the decoder's last layer; `logits` and `value` read them. A subclass sets the attributes below,
    all but the forbidden tokens, and calls its parameters of the critic `value_head`.
    """

    family: ClassVar[str]
    """What `config.json` or `rlcap.json` calls it."""
    tokenizer: PreTrainedTokenizerBase
    value_head: nn.Module
    """Hidden states `[..., D]` to values `[..., 1]`."""
    eos_token_ids: tuple[int, ...]
    """Any of them ends a caption; the first one closes those that are given as text."""
    pad_token_id: int
    forbidden_tokens: tuple[int, ...] = ()
    """Never written."""
    forbidden_first_tokens: tuple[int, ...] = ()
    """Not written at the start of a caption either."""
    steps_are_compiled: bool = False
    """Whether `compile_steps` was called."""

    @abstractmethod
    def features(self, clips: Sequence[Clip]) -> PolicyFeatures:
        """Compute what `encode` reads, at the captioner's own sample rate; with a frozen encoder, what that hears.

        No trained weight plays a part in it: actors hear ahead, before they have a batch's weights, in another thread.
        """

    @abstractmethod
    def encode(self, frames: Float[Tensor, "clip frame dim"], frame_mask: Bool[Tensor, "clip frame"]) -> Encoding:
        """Encode C clips, once each; neither padding nor the other clips may change what a clip becomes."""

    @abstractmethod
    def hidden_states(
        self,
        encoding: Encoding,
        clip_index: Int[Tensor, " batch"],
        tokens: Int[Tensor, "batch token"],
        action_mask: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "valid dim"]:
        """Teacher-force `tokens`: the hidden states that predict them, where `action_mask` is True, in its order."""

    @abstractmethod
    def logits(self, hidden: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
        """Unnormalised next-token scores, before any temperature; in evaluation mode the same whenever asked."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write the captioner in Hugging Face layout, the value head in a file of its own."""

    @classmethod
    @abstractmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""

    def begin(
        self,
        encoding: Encoding,
        clip_index: Int[Tensor, " batch"],
        max_new_tokens: int,  # noqa: ARG002
    ) -> tuple[Any, Float[Tensor, "batch dim"]]:
        """Start B captions; return a `DecoderState` and the hidden states that predict their first tokens."""
        unknown = torch.full((len(clip_index), 1), self.pad_token_id, device=clip_index.device)
        state = WholeCaptions(encoding, clip_index, unknown)
        return state, self.hidden_states(encoding, clip_index, unknown, torch.ones_like(unknown, dtype=torch.bool))

    def step(self, state: Any, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:  # noqa: ANN401
        """Append one token to every row; return the hidden states that predict the next."""
        state.tokens = torch.cat([state.tokens[:, :-1], tokens[:, None], state.tokens[:, -1:]], dim=1)
        everywhere = torch.ones_like(state.tokens, dtype=torch.bool)
        hidden = self.hidden_states(state.encoding, state.clip_index, state.tokens, everywhere)
        return hidden.view(*state.tokens.shape, -1)[:, -1]

    def longest_caption(self, encoding: Encoding) -> int | None:  # noqa: ARG002
        """Return how many tokens a caption of these clips may have; None where positions have no end."""
        return None

    def compile_steps(self, backend: str = "inductor") -> None:  # noqa: ARG002
        """Compile `step`, with shapes that never change. Raises CheckpointError where that cannot be done."""
        raise CheckpointError(
            f"a captioner of family {self.family} has no steps to compile: set sampling.compile=false"
        )

    def value(self, hidden: Float[Tensor, "... dim"]) -> Float[Tensor, ...]:
        """Estimate the return; gradients stop here, so that the critic cannot bend the policy."""
        dtype = next(self.value_head.parameters()).dtype
        values: Tensor = self.value_head(hidden.detach().to(dtype)).squeeze(-1)
        return values

    def decode(self, tokens: Int[Tensor, "batch token"], action_mask: Bool[Tensor, "batch token"]) -> tuple[str, ...]:
        """Turn tokens into text, special tokens left out."""
        known = torch.where(action_mask, tokens, self.pad_token_id)
        return tuple(text.strip() for text in self.tokenizer.batch_decode(known, skip_special_tokens=True))

    def tokenize(self, captions: Sequence[str]) -> tuple[Int[Tensor, "batch token"], Bool[Tensor, "batch token"]]:
        """Turn captions into right-padded tokens, each closed by the end-of-sequence token, and their mask."""
        known = self.tokenizer(list(captions), add_special_tokens=False).input_ids
        rows = [[*ids, self.eos_token_ids[0]] for ids in known]
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        flat = torch.tensor([token for row in rows for token in row])
        return torch.full(mask.shape, self.pad_token_id).masked_scatter(mask, flat), mask

    def scoring_parameters(self) -> Iterator[nn.Parameter]:
        """Return what `encode` and `log_probs` compute with: not the weights of an encoder that has heard before."""
        return self.parameters()

    def frozen_reference(self) -> Captioner:
        """Return what KL is measured against: the captioner as it is now, its adapters off.

        Frozen parameters are shared, not copied; features are those of the policy as well.
        """
        shared = {id(parameter): parameter for parameter in self.parameters() if not parameter.requires_grad}
        reference = copy.deepcopy(self, shared)
        for module in reference.modules():
            if isinstance(module, BaseTunerLayer):
                module.enable_adapters(enabled=False)
        for parameter in reference.parameters():
            if id(parameter) not in shared:
                parameter.requires_grad_(False)
        return reference.eval()

    def next_token_logits(
        self, hidden: Float[Tensor, "row dim"], is_first: Bool[Tensor, " row"]
    ) -> Float[Tensor, "row vocab"]:
        """Return `logits` in float32, with `FORBIDDEN` where a token may not be written."""
        logits = self.logits(hidden).float()
        if self.forbidden_tokens:
            logits = logits.index_fill(-1, _ids(self.forbidden_tokens, logits), FORBIDDEN)
        if self.forbidden_first_tokens:
            not_first = logits.index_fill(-1, _ids(self.forbidden_first_tokens, logits), FORBIDDEN)
            logits = torch.where(is_first[:, None], not_first, logits)
        return logits

    def log_probs(
        self,
        encoding: Encoding,
        clip_index: Int[Tensor, " batch"],
        tokens: Int[Tensor, "batch token"],
        action_mask: Bool[Tensor, "batch token"],
        temperature: float,
        support_sizes: Int[Tensor, "batch token"] | None = None,
    ) -> PolicyOutput:
        """Score given captions: log-probs and entropy as they were drawn, values without any temperature.

        With `support_sizes`, each token was drawn from that many of the most probable ones.
        """
        known = torch.where(action_mask, tokens, self.pad_token_id)
        hidden = self.hidden_states(encoding, clip_index, known, action_mask)  # [N, D]
        is_first = torch.zeros_like(action_mask)
        is_first[:, 0] = True
        scored = score_in_pieces(
            self.next_token_logits,
            hidden,  # of real tokens alone
            is_first[action_mask],
            known[action_mask],
            temperature,
            None if support_sizes is None else support_sizes[action_mask],
            vocabulary_size=len(self.tokenizer),
            keep_logits=self.training,  # dropout would draw others
        )
        return PolicyOutput(
            log_probs=_scatter(scored.log_probs, action_mask),
            values=_scatter(self.value(hidden).float(), action_mask),
            entropy=_scatter(scored.entropy, action_mask),
        )


@dataclass(slots=True)
class WholeCaptions:
    """The state of a captioner without a cache: captions so far, and a place for the token to come."""

    encoding: Encoding
    clip_index: Int[Tensor, " batch"]
    tokens: Int[Tensor, "batch token"]
    can_shrink: ClassVar[bool] = True

    def select_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows."""
        self.clip_index, self.tokens = self.clip_index[rows], self.tokens[rows]


def _ids(tokens: tuple[int, ...], like: Tensor) -> Int[Tensor, " forbidden"]:
    return torch.tensor(tokens, device=like.device)


def _scatter(flat: Float[Tensor, " valid"], mask: Bool[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)
