"""Ragged captions side by side: one row a clip holds its prefix and then its captions, with next to no padding.

The prefix, and whatever the decoder attends to beside it, is then read once for the whole group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MIN_FILL = 0.92
"""Rows of like length share a pass, so that at least this share of its positions is not padding."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where prefixes and tokens of some clips lie in `[row, position]`; the last token of a caption is not read."""

    clips: Int[Tensor, " row"]
    """The clip of each row."""
    num_positions: int
    token_rows: Int[Tensor, " read"]
    token_columns: Int[Tensor, " read"]
    read_tokens: Bool[Tensor, "batch token"]
    """Which tokens are read, in the order of `token_rows`."""
    hidden_rows: Int[Tensor, " scored"]
    hidden_columns: Int[Tensor, " scored"]
    scored_tokens: Bool[Tensor, "batch token"]
    """Which tokens are scored, in the order of `hidden_rows`: position `hidden_columns` predicts them."""
    position_ids: Int[Tensor, "row position"]
    attention_mask: Bool[Tensor, "row 1 position position"]
    """True where a position (third axis) reads another (fourth axis)."""


def lay_out(
    prefix_lengths: Int[Tensor, " clip"], clip_index: Int[Tensor, " batch"], action_mask: Bool[Tensor, "batch token"]
) -> Iterator[Layout]:
    """Lay captions out in few passes; every clip that has captions comes in one of them.

    A caption sees its prefix and its own earlier tokens. `action_mask` is True on the first tokens of each row.
    """
    num_read = (action_mask.sum(dim=1) - 1).clamp(min=0)
    row_lengths = prefix_lengths.clone().index_add_(0, clip_index, num_read)
    present = torch.bincount(clip_index, minlength=len(prefix_lengths)) > 0
    for clips in of_like_length(row_lengths, present.nonzero().squeeze(1)):
        yield _lay_out(clips, prefix_lengths, clip_index, action_mask, num_read)


def of_like_length(lengths: Int[Tensor, " clip"], chosen: Int[Tensor, " row"]) -> Iterator[Int[Tensor, " pass"]]:
    """Split the chosen, the longest first, wherever a pass over those so far would be filled too badly by the next.

    Lengths fall by a share from pass to pass, so that there are few of them.
    """
    order = chosen[lengths[chosen].argsort(descending=True, stable=True)]
    sizes = lengths[order].tolist()
    start, filled = 0, 0
    for stop, size in enumerate(sizes):
        if filled + size < MIN_FILL * sizes[start] * (stop + 1 - start):
            yield order[start:stop]
            start, filled = stop, 0
        filled += size
    yield order[start:]


def _lay_out(
    clips: Int[Tensor, " row"],
    prefix_lengths: Int[Tensor, " clip"],
    clip_index: Int[Tensor, " batch"],
    action_mask: Bool[Tensor, "batch token"],
    num_read: Int[Tensor, " batch"],
) -> Layout:
    row_of_clip = torch.full_like(prefix_lengths, -1)
    row_of_clip[clips] = torch.arange(len(clips), device=clips.device)
    rows = row_of_clip[clip_index]  # [B], -1 for the captions of other passes
    mine = (rows >= 0)[:, None]
    starts = prefix_lengths[clip_index] + _earlier_in_group(num_read, clip_index)
    token = torch.arange(action_mask.shape[1], device=rows.device)
    read, scored = mine & (token < num_read[:, None]), mine & action_mask
    columns = starts[:, None] + token  # [B, L]
    predicting = torch.where(token == 0, (prefix_lengths[clip_index] - 1)[:, None], columns - 1)
    row_of_token = rows[:, None].expand_as(columns)
    token_rows, token_columns = row_of_token[read], columns[read]
    prefixes = prefix_lengths[clips]
    num_positions = int(torch.cat([prefixes, token_columns + 1]).max())
    position = torch.arange(num_positions, device=rows.device).repeat(len(clips), 1)
    in_prefix = position < prefixes[:, None]
    position_ids = position * in_prefix  # padding needs one that every decoder has
    position_ids[token_rows, token_columns] = (prefix_lengths[clip_index][:, None] + token)[read]
    # 0 for the prefix, 1 + i for caption i, -1 for padding.
    owner = torch.where(in_prefix, 0, -1)
    captions = torch.arange(1, len(rows) + 1, device=rows.device)
    owner[token_rows, token_columns] = captions[:, None].expand_as(columns)[read]
    return Layout(
        clips=clips,
        num_positions=num_positions,
        token_rows=token_rows,
        token_columns=token_columns,
        read_tokens=read,
        hidden_rows=row_of_token[scored],
        hidden_columns=predicting[scored],
        scored_tokens=scored,
        position_ids=position_ids,
        attention_mask=_visible(owner),
    )


def _earlier_in_group(num_read: Int[Tensor, " batch"], clip_index: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Return how many tokens of earlier captions stand before each caption in its clip's row."""
    order = clip_index.argsort(stable=True)
    before = num_read[order].cumsum(0) - num_read[order]
    clips = clip_index[order]
    is_first = torch.ones_like(clips, dtype=torch.bool)
    is_first[1:] = clips[1:] != clips[:-1]
    # What stood before the group's first caption belongs to other clips.
    offset = before[is_first].repeat_interleave(torch.unique_consecutive(clips, return_counts=True)[1])
    return torch.empty_like(before).index_copy_(0, order, before - offset)


def _visible(owner: Int[Tensor, "row position"]) -> Bool[Tensor, "row 1 position position"]:
    reader, read = owner[:, :, None], owner[:, None, :]
    earlier = torch.ones(owner.shape[1], owner.shape[1], dtype=torch.bool, device=owner.device).tril()
    # Padding reads itself: a row of scores that are all masked has no softmax.
    return (earlier & ((read == 0) | (read == reader)))[:, None]


def gather_scored(
    parts: list[tuple[Layout, Float[Tensor, "row position dim"]]], action_mask: Bool[Tensor, "batch token"]
) -> Float[Tensor, "valid dim"]:
    """Return the hidden states that predict each valid token, in the order of `action_mask`."""
    numbers = number_tokens(action_mask)
    found = [hidden[layout.hidden_rows, layout.hidden_columns] for layout, hidden in parts]
    return in_order(found, [numbers[layout.scored_tokens] for layout, _ in parts])


def number_tokens(action_mask: Bool[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """Number all places of a batch, row after row."""
    return torch.arange(action_mask.numel(), device=action_mask.device).view_as(action_mask)


def in_order(
    found: Sequence[Float[Tensor, "scored dim"]], numbers: Sequence[Int[Tensor, " scored"]]
) -> Float[Tensor, "valid dim"]:
    """Put what several passes found for numbered tokens in the order of the numbers."""
    if len(found) == 1:
        return found[0]
    return torch.cat(list(found))[torch.cat(list(numbers)).argsort()]
