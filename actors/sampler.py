"""Draws captions and their exact log-probs, with a preallocated key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlcap.captioners.captioner import Captioner, Encoding, PolicyOutput
from rlcap.captioners.distribution import DrawnTokens, draw
from rlcap.captioners.packed_linears import packed_linears

COMPACT_BELOW = 0.75
"""Finished rows leave the batch once fewer than this share of its rows is still growing."""
LOOK_EVERY_ON_GPU = 8
"""Steps between two looks at which rows have ended."""


@dataclass(frozen=True, slots=True)
class SampledCaptions:
    """B captions, right-padded to the longest, and the distributions that they were drawn from."""

    tokens: Int[Tensor, "batch token"]
    action_mask: Bool[Tensor, "batch token"]
    log_probs: Float[Tensor, "batch token"]
    values: Float[Tensor, "batch token"]
    truncated: Bool[Tensor, " batch"]
    support_sizes: Int[Tensor, "batch token"] | None
    """How many of the most probable tokens each was drawn from; None where it was from all."""
    temperature: float


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
    with nullcontext() if captioner.steps_are_compiled else packed_linears(captioner):
        rows = _OpenRows(captioner, len(clip_index), clip_index.device)
        state, hidden = captioner.begin(encoding, clip_index, max_new_tokens)
        for t in range(max_new_tokens):
            logits = captioner.next_token_logits(hidden, rows.all_at(t == 0))
            drawn = draw(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
            tokens = rows.append(drawn, hidden)
            if t + 1 == max_new_tokens:
                break
            if (t + 1) % rows.look_every == 0:
                num_open = int(rows.is_open.sum())
                if num_open == 0:
                    break
                if state.can_shrink and num_open < COMPACT_BELOW * len(rows.is_open):
                    kept = rows.is_open.nonzero().squeeze(-1)
                    state.select_rows(kept)
                    rows.select(kept)
                    tokens = tokens[kept]
            hidden = captioner.step(state, tokens)
        return rows.captions(temperature)


def score_as_drawn(
    captioner: Captioner, encoding: Encoding, clip_index: Int[Tensor, " batch"], sampled: SampledCaptions
) -> PolicyOutput:
    """Score sampled captions by any captioner: its log-probs of them, at the temperature and support of the sampler.

    Under any others, a captioner would lie away from itself, and every KL to it would be wrong by as much.
    """
    return captioner.log_probs(
        encoding, clip_index, sampled.tokens, sampled.action_mask, sampled.temperature, sampled.support_sizes
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """What one step drew: a row each for the captions in `growing`."""

    growing: Int[Tensor, " row"]
    was_open: Bool[Tensor, " row"]
    drawn: DrawnTokens
    hidden: Float[Tensor, "row dim"]


class _OpenRows:
    """Which rows of the decoder still write to which caption, and all that was drawn; put together at the end."""

    def __init__(self, captioner: Captioner, num_captions: int, device: torch.device) -> None:
        self._captioner = captioner
        self._eos = torch.tensor(captioner.eos_token_ids, device=device)
        self._num_captions = num_captions
        self._steps: list[_Step] = []
        self._growing = torch.arange(num_captions, device=device)
        self.is_open = torch.ones(num_captions, dtype=torch.bool, device=device)
        """Which rows have not ended."""
        # To look at results makes the host wait for a GPU; rows that have ended are cheap to carry for a while.
        self.look_every = 1 if device.type == "cpu" else LOOK_EVERY_ON_GPU

    def all_at(self, value: bool) -> Bool[Tensor, " row"]:
        """Return one value for every row."""
        return torch.full_like(self.is_open, value)

    def append(self, drawn: DrawnTokens, hidden: Float[Tensor, "row dim"]) -> Int[Tensor, " row"]:
        """Note a token for every row, close those that end with it, and return the tokens to go on with."""
        self._steps.append(_Step(self._growing, self.is_open, drawn, hidden))
        ends = (drawn.tokens[:, None] == self._eos).any(dim=1)
        self.is_open = self.is_open & ~ends
        return drawn.tokens

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the decoder."""
        self._growing, self.is_open = self._growing[rows], self.is_open[rows]

    def captions(self, temperature: float) -> SampledCaptions:
        """Return all captions, cut to the longest, and the critic's values of all tokens at once."""
        valid = torch.cat([step.was_open for step in self._steps])
        captions = torch.cat([step.growing for step in self._steps])[valid]
        sizes = torch.tensor([len(step.growing) for step in self._steps], device=valid.device)
        times = torch.arange(len(self._steps), device=valid.device).repeat_interleave(sizes)[valid]
        shape = (self._num_captions, len(self._steps))

        def place(values: Sequence[Tensor], fill: float) -> Tensor:
            drawn = torch.cat(list(values))[valid]
            whole = torch.full(shape, fill, dtype=drawn.dtype, device=drawn.device)
            return whole.index_put((captions, times), drawn)

        action_mask = torch.zeros(shape, dtype=torch.bool, device=valid.device)
        action_mask[captions, times] = True
        truncated = torch.zeros(shape[0], dtype=torch.bool, device=valid.device)
        truncated[self._growing] = self.is_open
        values = [self._captioner.value(torch.cat([step.hidden for step in self._steps])).float()]
        sizes_drawn = [step.drawn.support_sizes for step in self._steps]
        return SampledCaptions(
            tokens=place([step.drawn.tokens for step in self._steps], self._captioner.pad_token_id),
            action_mask=action_mask,
            log_probs=place([step.drawn.log_probs for step in self._steps], 0.0),
            values=place(values, 0.0),
            truncated=truncated,
            support_sizes=place([size for size in sizes_drawn if size is not None], 0)
            if sizes_drawn[0] is not None
            else None,
            temperature=temperature,
        )
