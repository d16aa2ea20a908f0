"""Draws captions and their exact log-probs, with a preallocated key-value cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlcap.captioners.captioner import Captioner, Encoding
from rlcap.captioners.distribution import DrawnTokens, draw

COMPACT_BELOW = 0.75
"""Finished rows leave the batch once fewer than this share of its rows is still growing."""
LOOK_EVERY_ON_GPU = 8
"""Steps between two looks at which rows have ended."""


@dataclass(frozen=True, slots=True)
class SampledCaptions:
    """B captions, right-padded to the longest."""

    tokens: Int[Tensor, "batch token"]
    action_mask: Bool[Tensor, "batch token"]
    log_probs: Float[Tensor, "batch token"]
    values: Float[Tensor, "batch token"]
    truncated: Bool[Tensor, " batch"]
    support_sizes: Int[Tensor, "batch token"] | None
    """How many of the most probable tokens each was drawn from; None where it was from all."""


@torch.inference_mode()
def sample_captions(
    captioner: Captioner,
    encoding: Encoding,
    clip_index: Int[Tensor, " batch"],
    *,
    temperature: float,
    max_new_tokens: int,
    generator: torch.Generator | None,
    top_k: int = 0,
    top_p: float = 1.0,
) -> SampledCaptions:
    """Draw one caption for each entry of `clip_index`.

    Args:
        captioner: in evaluation mode.
        encoding: of C clips.
        clip_index: which clip each of the B captions describes.
        temperature: divides the logits; log-probs are of the distribution drawn from.
        max_new_tokens: captions that do not end by then are marked truncated.
        generator: source of randomness; None picks the most probable token each time.
        top_k: draw from that many of the most probable tokens; 0 means all.
        top_p: and of those, from the fewest that hold this share of the probability.
    """
    written = _Written(captioner, clip_index, max_new_tokens, truncates=top_k > 0 or top_p < 1.0)
    state, hidden = captioner.begin(encoding, clip_index, max_new_tokens)
    for t in range(max_new_tokens):
        logits = captioner.next_token_logits(hidden, torch.full_like(written.growing, t == 0, dtype=torch.bool))
        drawn = draw(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        written.append(t, drawn, captioner.value(hidden).float())
        if t + 1 == max_new_tokens:
            break
        tokens = drawn.tokens
        if (t + 1) % written.look_every == 0:
            num_open = int(written.is_open.sum())
            if num_open == 0:
                break
            if num_open < COMPACT_BELOW * len(written.is_open):
                kept = written.is_open.nonzero().squeeze(-1)
                state.select_rows(kept)
                written.select_rows(kept)
                tokens = tokens[kept]
        hidden = captioner.step(state, tokens)
    return written.captions()


class _Written:
    """The captions so far, and which rows of the decoder still write to which of them."""

    def __init__(
        self, captioner: Captioner, clip_index: Int[Tensor, " batch"], max_new_tokens: int, *, truncates: bool
    ) -> None:
        shape, device = (len(clip_index), max_new_tokens), clip_index.device
        self._eos = torch.tensor(captioner.eos_token_ids, device=device)
        self._tokens = torch.full(shape, captioner.pad_token_id, device=device)
        self._action_mask = torch.zeros(shape, dtype=torch.bool, device=device)
        self._log_probs, self._values = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        self._sizes = torch.zeros(shape, dtype=torch.int64, device=device) if truncates else None
        self._pad = captioner.pad_token_id
        self.growing = torch.arange(shape[0], device=device)
        """The caption that each row of the decoder writes to."""
        self.is_open = torch.ones(shape[0], dtype=torch.bool, device=device)
        """Which rows have not ended."""
        # To look at results makes the host wait for a GPU; rows that have ended are cheap to carry for a while.
        self.look_every = 1 if device.type == "cpu" else LOOK_EVERY_ON_GPU

    def append(self, t: int, drawn: DrawnTokens, values: Float[Tensor, " row"]) -> None:
        """Write token t of every open row; those that end close behind it."""
        is_open, growing = self.is_open, self.growing
        self._tokens[growing, t] = torch.where(is_open, drawn.tokens, self._pad)
        self._action_mask[growing, t] = is_open
        self._log_probs[growing, t] = torch.where(is_open, drawn.log_probs, 0.0)
        self._values[growing, t] = torch.where(is_open, values, 0.0)
        if self._sizes is not None and drawn.support_sizes is not None:
            self._sizes[growing, t] = torch.where(is_open, drawn.support_sizes, 0)
        ends = (drawn.tokens[:, None] == self._eos).any(dim=1)
        self.is_open = is_open & ~ends

    def select_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the decoder."""
        self.growing, self.is_open = self.growing[rows], self.is_open[rows]

    def captions(self) -> SampledCaptions:
        """Return all captions, cut to the longest."""
        length = int(self._action_mask.any(dim=0).sum())
        truncated = torch.zeros(len(self._tokens), dtype=torch.bool, device=self._tokens.device)
        truncated[self.growing] = self.is_open
        return SampledCaptions(
            self._tokens[:, :length],
            self._action_mask[:, :length],
            self._log_probs[:, :length],
            self._values[:, :length],
            truncated,
            None if self._sizes is None else self._sizes[:, :length],
        )
