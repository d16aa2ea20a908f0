"""Preference pairs as tensors, and which of them are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rlcap.errors import DataError
from rlcap.preferences.clip_split import ClipSplit
from rlcap.preferences.pairs import PreferencePair


@dataclass(frozen=True, slots=True)
class PairTable:
    """Preference pairs as tensors over P pairs; captions are numbered, each distinct one once."""

    captions: list[str]
    clip: Int64[Tensor, " pair"]
    caption_a: Int64[Tensor, " pair"]
    caption_b: Int64[Tensor, " pair"]
    share_for_a: Float[Tensor, " pair"]
    num_votes: Float[Tensor, " pair"]
    majority: Int64[Tensor, " pair"]

    @classmethod
    def build(cls, pairs: Sequence[PreferencePair], clip_ids: Sequence[str]) -> PairTable:
        """Look up the clips in `clip_ids`, which have audio. Raises DataError where one is not among them."""
        clip_number = {clip_id: number for number, clip_id in enumerate(clip_ids)}
        unknown = sorted({pair.clip_id for pair in pairs} - clip_number.keys())
        if unknown:
            raise DataError(
                f"{len(unknown)} clips of the preference pairs have no audio, the first being {unknown[0]!r}; "
                "give the recordings, or leave their pairs out"
            )
        captions = sorted({caption for pair in pairs for caption in (pair.caption_a, pair.caption_b)})
        caption_number = {caption: number for number, caption in enumerate(captions)}
        return cls(
            captions,
            torch.tensor([clip_number[pair.clip_id] for pair in pairs], dtype=torch.int64),
            torch.tensor([caption_number[pair.caption_a] for pair in pairs], dtype=torch.int64),
            torch.tensor([caption_number[pair.caption_b] for pair in pairs], dtype=torch.int64),
            torch.tensor([pair.share_for_a for pair in pairs], dtype=torch.float32),
            torch.tensor([len(pair.votes) for pair in pairs], dtype=torch.float32),
            torch.tensor([pair.majority for pair in pairs], dtype=torch.int64),
        )


def rows_of_parts(pairs: Sequence[PreferencePair], split: ClipSplit) -> tuple[Int64[Tensor, " pair"], ...]:
    """Return the numbers of the training, validation and held-out pairs. Raises DataError where a part is empty."""
    parts = []
    for name, clip_ids in (("training", split.training), ("validation", split.validation), ("held-out", split.heldout)):
        among = set(clip_ids)
        rows = [row for row, pair in enumerate(pairs) if pair.clip_id in among]
        if not rows:
            num_clips = len({pair.clip_id for pair in pairs})
            raise DataError(
                f"the {name} part of the preference pairs is empty: {num_clips} clips with {len(pairs)} pairs "
                "are too few; give more clips, or other shares"
            )
        parts.append(torch.tensor(rows))
    return tuple(parts)
