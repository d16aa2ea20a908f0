"""Where ragged captions lie, against a slow count of every position."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcap.captioners.packing import gather_scored, lay_out, of_like_length

groups = st.lists(
    st.tuples(st.integers(1, 40), st.lists(st.integers(1, 30), min_size=0, max_size=6)), min_size=1, max_size=16
).filter(lambda clips: any(captions for _, captions in clips))
"""Clips: the length of the prefix, and of each caption."""


def ragged(clips, seed=0):
    """Prefix lengths, clip index and action mask of captions in any order."""
    pairs = [(clip, length) for clip, (_, captions) in enumerate(clips) for length in captions]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    lengths = torch.tensor([pairs[one][1] for one in order])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return torch.tensor([prefix for prefix, _ in clips]), torch.tensor([pairs[one][0] for one in order]), mask


@settings(deadline=None)
@given(groups, st.integers(0, 99))
def test_at_most_a_tenth_of_what_is_computed_is_padding_in_few_passes(clips, seed):
    prefix_lengths, clip_index, mask = ragged(clips, seed)
    layouts = list(lay_out(prefix_lengths, clip_index, mask))
    computed = sum(len(layout.clips) * layout.num_positions for layout in layouts)
    real = {
        clip: int(prefix_lengths[clip]) + sum(length - 1 for length in clips[clip][1]) for clip in clip_index.tolist()
    }
    assert sum(real.values()) >= 0.9 * computed
    spread = math.log(max(real.values()) / min(real.values()))
    assert len(layouts) <= 1 + spread / math.log(1 / 0.92)


@settings(deadline=None, max_examples=40)
@given(groups, st.integers(0, 99))
def test_every_token_is_predicted_once_from_its_own_past(clips, seed):
    prefix_lengths, clip_index, mask = ragged(clips, seed)
    numbers = torch.arange(mask.numel()).view_as(mask)
    parts = []
    for layout in lay_out(prefix_lengths, clip_index, mask):
        # What stands at each position: -1 - clip in a prefix, the number of a token, or nothing.
        held = torch.full((len(layout.clips), layout.num_positions), -1000)
        for row, clip in enumerate(layout.clips.tolist()):
            held[row, : prefix_lengths[clip]] = -1 - clip
        held[layout.token_rows, layout.token_columns] = numbers[layout.read_tokens]
        for row, column in zip(layout.hidden_rows.tolist(), layout.hidden_columns.tolist(), strict=True):
            seen = held[row][layout.attention_mask[row, 0, column]]
            own = -1 - int(layout.clips[row])
            past = seen[seen >= 0]
            assert (seen == own).sum() == prefix_lengths[layout.clips[row]]
            assert len(past) + (seen == own).sum() == len(seen)
            if len(past):
                caption = int(past[0]) // mask.shape[1]
                assert past.tolist() == numbers[caption, : len(past)].tolist()
                assert layout.position_ids[row, column] == prefix_lengths[clip_index[caption]] + len(past) - 1
            else:
                assert layout.position_ids[row, column] == prefix_lengths[layout.clips[row]] - 1
        parts.append((layout, held[:, :, None].float()))
    before = gather_scored(parts, mask).squeeze(1).long()
    expected = torch.where(torch.arange(mask.shape[1]) == 0, -1 - clip_index[:, None], numbers - 1)
    assert before.tolist() == expected[mask].tolist()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_rows_of_like_length_come_once_each(lengths):
    passes = list(of_like_length(torch.tensor(lengths), torch.arange(len(lengths))))
    assert sorted(torch.cat(passes).tolist()) == list(range(len(lengths)))
    computed = sum(len(rows) * max(lengths[row] for row in rows) for rows in passes)
    assert sum(lengths) >= 0.9 * computed
