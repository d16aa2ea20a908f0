"""True captions as targets of supervised fine-tuning: their tokens, and which of these the loss counts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlcap.captioners.captioner import Captioner
from rlcap.errors import DataError

log = logging.getLogger(__name__)

TOKENIZED_AT_ONCE = 1024
NUM_NAMED = 5
"""Tokens that a warning names."""


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """Some captions, right-padded."""

    tokens: Int64[Tensor, "batch token"]
    mask: Bool[Tensor, "batch token"]
    """False on padding."""
    in_loss: Bool[Tensor, "batch token"]
    """Which tokens the loss is averaged over."""

    def rows(self, rows: slice) -> TargetBatch:
        """Return these rows, trimmed to their longest caption."""
        longest = int(self.mask[rows].sum(dim=1).max())
        return TargetBatch(self.tokens[rows, :longest], self.mask[rows, :longest], self.in_loss[rows, :longest])


@dataclass(frozen=True, slots=True)
class Target:
    """A caption."""

    tokens: Int64[Tensor, " token"]
    in_loss: Bool[Tensor, " token"]


@dataclass(frozen=True, slots=True)
class CaptionTargets:
    """The captions that clips are taught."""

    clips: tuple[int, ...]
    """Clips that have any."""
    captions: tuple[tuple[Target, ...], ...]
    """Of each of these."""
    pad_token_id: int

    @classmethod
    def of(cls, captioner: Captioner, captions: Sequence[Sequence[str]], room: int | None) -> CaptionTargets:
        """Tokenize the captions of each clip.

        A token that generation forbids stays in its caption, and out of the loss: the captioner gives it a probability
        of zero whatever it learns. A caption is cut to `room` tokens, and left out where no word of it is in the loss.
        The log says how many of each there were.

        Raises:
            DataError: no caption can be taught.
        """
        whole = _tokenize(captioner, list(chain.from_iterable(captions)))
        cut = whole if room is None else [tokens[: max(0, room)] for tokens in whole]
        targets = _mark_what_may_be_written(captioner, cut)
        has_words = [bool(one.in_loss[: len(tokens) - 1].any()) for one, tokens in zip(targets, whole, strict=True)]
        places = iter(range(len(targets)))
        kept = [tuple(targets[place] for place in islice(places, len(own)) if has_words[place]) for own in captions]
        clips = tuple(clip for clip, own in enumerate(kept) if own)
        if not clips:
            raise DataError(
                f"none of the {len(targets)} captions can be taught: they hold no word that the captioner may write"
            )
        taught = [one for one, words in zip(targets, has_words, strict=True) if words]
        _tell_forbidden(captioner, taught)
        num_cut = sum(len(tokens) > len(one.tokens) for tokens, one in zip(whole, targets, strict=True))
        if num_cut:
            log.warning("%d of %d captions are cut to the %d tokens that the decoder has positions for",
                        num_cut, len(whole), room)  # fmt: skip
        if len(taught) < len(targets):
            log.warning(
                "%d of %d captions are left out, and so are %d clips: they hold no word that the captioner may write",
                len(targets) - len(taught), len(targets), len(captions) - len(clips),
            )  # fmt: skip
        return cls(clips, tuple(kept[clip] for clip in clips), captioner.pad_token_id)

    def batch(self, chosen: Int64[Tensor, " batch"], turn: int) -> TargetBatch:
        """Return a caption of each chosen one of `clips`, given by its place there: in every turn the next."""
        of_chosen = [self.captions[place] for place in chosen.tolist()]
        targets = [own[turn % len(own)] for own in of_chosen]
        lengths = torch.tensor([len(one.tokens) for one in targets])
        tokens = pad_sequence([one.tokens for one in targets], batch_first=True, padding_value=self.pad_token_id)
        in_loss = pad_sequence([one.in_loss for one in targets], batch_first=True)
        return TargetBatch(tokens, torch.arange(tokens.shape[1]) < lengths[:, None], in_loss)


def _tokenize(captioner: Captioner, captions: Sequence[str]) -> list[Int64[Tensor, " token"]]:
    found = []
    for start in range(0, len(captions), TOKENIZED_AT_ONCE):
        tokens, mask = captioner.tokenize(captions[start : start + TOKENIZED_AT_ONCE])
        found += [row[valid].clone() for row, valid in zip(tokens, mask, strict=True)]
    return found


def _mark_what_may_be_written(captioner: Captioner, captions: Sequence[Int64[Tensor, " token"]]) -> list[Target]:
    lengths = [len(tokens) for tokens in captions]
    tokens = torch.cat(list(captions))
    allowed = ~torch.isin(tokens, torch.tensor(captioner.forbidden_tokens, dtype=tokens.dtype))
    first = torch.tensor([0, *accumulate(lengths)][:-1])[torch.tensor(lengths) > 0]
    allowed[first] &= ~torch.isin(tokens[first], torch.tensor(captioner.forbidden_first_tokens, dtype=tokens.dtype))
    return [Target(own, in_loss) for own, in_loss in zip(captions, allowed.split(lengths), strict=True)]


def _tell_forbidden(captioner: Captioner, captions: Sequence[Target]) -> None:
    """Say once which tokens of the captions the loss leaves out."""
    forbidden = torch.cat([one.tokens[~one.in_loss] for one in captions])
    if not len(forbidden):
        return
    kinds, counts = forbidden.unique(return_counts=True)
    commonest = kinds[counts.argsort(descending=True, stable=True)][:NUM_NAMED].tolist()
    log.warning(
        "%d of %d tokens of the captions are left out of the loss, since the captioner never writes them there: %s",
        len(forbidden), sum(len(one.tokens) for one in captions),
        ", ".join(repr(captioner.tokenizer.decode([token])) for token in commonest),
    )  # fmt: skip
