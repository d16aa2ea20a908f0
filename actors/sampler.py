"""Draws captions and their exact log-probs, with a preallocated key-value cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlcap.captioners.captioner import Captioner, Encoding

COMPACT_BELOW = 0.75
"""Finished rows leave the batch once fewer than this share of its rows is still growing."""


@dataclass(frozen=True, slots=True)
class SampledCaptions:
    """B captions, right-padded to the longest."""

    tokens: Int[Tensor, "batch token"]
    action_mask: Bool[Tensor, "batch token"]
    log_probs: Float[Tensor, "batch token"]
    values: Float[Tensor, "batch token"]
    truncated: Bool[Tensor, " batch"]


@torch.inference_mode()
def sample_captions(
    captioner: Captioner,
    encoding: Encoding,
    clip_index: Int[Tensor, " batch"],
    *,
    temperature: float,
    max_new_tokens: int,
    generator: torch.Generator | None,
) -> SampledCaptions:
    """Draw one caption for each entry of `clip_index`.

    Args:
        captioner: in evaluation mode.
        encoding: of C clips.
        clip_index: which clip each of the B captions describes.
        temperature: divides the logits; log-probs are of the distribution drawn from.
        max_new_tokens: captions that do not end by then are marked truncated.
        generator: source of randomness; None picks the most probable token each time.
    """
    num_rows = len(clip_index)
    shape = (num_rows, max_new_tokens)
    tokens = torch.full(shape, captioner.pad_token_id)
    action_mask = torch.zeros(shape, dtype=torch.bool)
    log_probs, values = torch.zeros(shape), torch.zeros(shape)
    growing = torch.arange(num_rows)  # rows of the output that the decoder's rows write to
    state, hidden = captioner.begin(encoding, clip_index, max_new_tokens)
    open_rows = torch.ones(num_rows, dtype=torch.bool)  # decoder rows that have not ended
    for t in range(max_new_tokens):
        log_softmax = torch.log_softmax(captioner.logits(hidden).float() / temperature, dim=-1)
        drawn = _draw(log_softmax, generator)
        written = growing[open_rows]
        tokens[written, t] = drawn[open_rows]
        action_mask[written, t] = True
        log_probs[written, t] = log_softmax.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)[open_rows]
        values[written, t] = captioner.value(hidden).float()[open_rows]
        open_rows = open_rows & (drawn != captioner.eos_token_id)
        num_open = int(open_rows.sum())
        if num_open == 0 or t + 1 == max_new_tokens:
            break
        if num_open < COMPACT_BELOW * len(open_rows):
            kept = open_rows.nonzero().squeeze(-1)
            state.select_rows(kept)
            drawn, growing, open_rows = drawn[kept], growing[kept], open_rows[kept]
        hidden = captioner.step(state, drawn)
    length = int(action_mask.any(dim=0).sum())
    truncated = torch.zeros(num_rows, dtype=torch.bool)
    truncated[growing[open_rows]] = True
    return SampledCaptions(
        tokens[:, :length], action_mask[:, :length], log_probs[:, :length], values[:, :length], truncated
    )


def _draw(log_softmax: Float[Tensor, "batch vocab"], generator: torch.Generator | None) -> Int[Tensor, " batch"]:
    if generator is None:
        return log_softmax.argmax(dim=-1)
    return torch.multinomial(log_softmax.exp(), 1, generator=generator).squeeze(-1)
