"""From scored rollouts to one padded batch, and from that batch to minibatches of whole groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rlcap.errors import RlcapError
from rlcap.types import RolloutBatch, ScoredRollouts

Common = TypeVar("Common", float, str)


@dataclass(frozen=True, slots=True)
class Captions:
    """Captions over clips: what the policy is asked to score."""

    frames: Float[Tensor, "clip frame mel"]
    frame_mask: Bool[Tensor, "clip frame"]
    clip_index: Int64[Tensor, " batch"]
    tokens: Int64[Tensor, "batch token"]
    action_mask: Bool[Tensor, "batch token"]
    temperature: float
    support_sizes: Int64[Tensor, "batch token"] | None = None
    """How many of the most probable tokens each was drawn from; None where it was from all."""

    def to(self, device: torch.device) -> Captions:
        """Return the same captions on another device."""
        return Captions(
            frames=self.frames.to(device),
            frame_mask=self.frame_mask.to(device),
            clip_index=self.clip_index.to(device),
            tokens=self.tokens.to(device),
            action_mask=self.action_mask.to(device),
            temperature=self.temperature,
            support_sizes=None if self.support_sizes is None else self.support_sizes.to(device),
        )


@dataclass(frozen=True, slots=True)
class LearnerBatch:
    """All scored rollouts of one update, in memory of its own; those without a score are counted and left out."""

    captions: Captions
    clip_ids: tuple[str, ...]
    """Of the clips, in the order of their frames."""
    log_probs: Float[Tensor, "batch token"]
    """Of the behaviour policy, by the sampler."""
    ref_log_probs: Float[Tensor, "batch token"]
    values: Float[Tensor, "batch token"]
    """By the critic at sampling time."""
    scores: Float[Tensor, " batch"]
    greedy_scores: Float[Tensor, " batch"] | None
    """Of the greedy caption of each rollout's clip; None where no such captions were written."""
    truncated: Bool[Tensor, " batch"]
    policy_version: Int64[Tensor, " batch"]
    sampled_in_float32: Bool[Tensor, " batch"]
    reward_version: str
    num_failed: int
    """Rollouts left out because their score, or that of their clip's greedy caption, could not be had."""
    largest_group: int
    """Rollouts of the clip that has most, those without a score included."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What the loss holds against the policy's view of each token."""

    log_probs: Float[Tensor, "batch token"]
    """Of the behaviour policy."""
    proximal_log_probs: Float[Tensor, "batch token"]
    """Of the policy that the update began with."""
    ref_log_probs: Float[Tensor, "batch token"]
    old_values: Float[Tensor, "batch token"]
    advantages: Float[Tensor, "batch token"]
    returns: Float[Tensor, "batch token"]

    def rows(self, rows: Int64[Tensor, " chosen"], length: int) -> Targets:
        """Return these rows, cut to `length` tokens."""
        return Targets(**{field.name: getattr(self, field.name)[rows, :length] for field in fields(self)})

    def to(self, device: torch.device) -> Targets:
        """Return the same targets on another device."""
        return Targets(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, slots=True)
class Experience:
    """Captions and their targets: a whole update, or a minibatch of it."""

    captions: Captions
    targets: Targets

    def to(self, device: torch.device) -> Experience:
        """Return the same experience on another device."""
        return Experience(captions=self.captions.to(device), targets=self.targets.to(device))


def merge(scored: Sequence[ScoredRollouts]) -> LearnerBatch:
    """Put the rollouts of an update side by side, padded to the longest caption and the longest clip.

    Everything is copied: arrays out of Ray's object store are shared with other processes.

    Raises:
        RlcapError: If nothing was given, temperatures or reward versions differ, or a rollout is damaged.
    """
    if not scored:
        raise RlcapError("an update needs at least one batch of rollouts, got none")
    for one in scored:
        _check_sound(one)
    rollouts = [one.rollouts for one in scored]
    baselines = [_greedy_score_per_row(one) for one in scored]
    kept = [~one.rewards.failed & ~np.isnan(baseline) for one, baseline in zip(scored, baselines, strict=True)]
    offsets = np.cumsum([0, *(len(batch.clip_ids) for batch in rollouts[:-1])])
    versions = [np.full(len(batch.clip_index), batch.policy_version, dtype=np.int64) for batch in rollouts]
    exact = [np.full(len(batch.clip_index), set(batch.dtypes) == {"float32"}) for batch in rollouts]

    def rows(read: Callable[[RolloutBatch], np.ndarray]) -> Tensor:
        return torch.from_numpy(_stack_padded([read(batch)[keep] for batch, keep in zip(rollouts, kept, strict=True)]))

    def per_row(arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate([array[keep] for array, keep in zip(arrays, kept, strict=True)]))

    captions = Captions(
        frames=torch.from_numpy(_stack_padded([batch.features.frames for batch in rollouts])),
        frame_mask=torch.from_numpy(_stack_padded([batch.features.frame_mask for batch in rollouts])),
        clip_index=per_row([batch.clip_index + offset for batch, offset in zip(rollouts, offsets, strict=True)]),
        tokens=rows(lambda batch: batch.tokens),
        action_mask=rows(lambda batch: batch.action_mask),
        temperature=_only({batch.temperature for batch in rollouts}, "sampling temperature"),
        support_sizes=_support_sizes(rollouts, kept),
    )
    return LearnerBatch(
        captions=captions,
        clip_ids=tuple(clip_id for batch in rollouts for clip_id in batch.clip_ids),
        log_probs=rows(lambda batch: batch.log_probs),
        ref_log_probs=rows(lambda batch: batch.ref_log_probs),
        values=rows(lambda batch: batch.values),
        scores=per_row([one.rewards.scores for one in scored]),
        greedy_scores=None if any(one.greedy_scores is None for one in scored) else per_row(baselines),
        truncated=per_row([batch.truncated for batch in rollouts]),
        policy_version=per_row(versions),
        sampled_in_float32=per_row(exact),
        reward_version=_only({one.rewards.reward_version for one in scored}, "reward version"),
        num_failed=sum(int((~keep).sum()) for keep in kept),
        largest_group=max(int(np.bincount(batch.clip_index).max(initial=0)) for batch in rollouts),
    )


def deal_clips(
    clip_index: Int64[Tensor, " batch"], minibatch_size: int, seeds: Sequence[int]
) -> list[Int64[Tensor, " clip"]]:
    """Shuffle the clips that have rollouts and deal them into minibatches; every clip comes once.

    A minibatch closes when the next group would take it beyond `minibatch_size` rollouts. The same seeds give the
    same minibatches.
    """
    group_sizes = torch.bincount(clip_index).tolist()
    present = [clip for clip, size in enumerate(group_sizes) if size]
    order = np.random.default_rng(list(seeds)).permutation(len(present))
    minibatches: list[list[int]] = []
    room = 0
    for clip in (present[position] for position in order):
        if not minibatches or group_sizes[clip] > room:
            minibatches.append([])
            room = minibatch_size
        minibatches[-1].append(clip)
        room -= group_sizes[clip]
    return [torch.tensor(clips, dtype=torch.int64) for clips in minibatches]


def rows_of(clip_index: Int64[Tensor, " batch"], clips: Int64[Tensor, " clip"]) -> Int64[Tensor, " chosen"]:
    """Return the rows that describe any of `clips`, in ascending order."""
    return torch.isin(clip_index, clips).nonzero().squeeze(1)


def take_clips(captions: Captions, clips: Int64[Tensor, " clip"]) -> Captions:
    """Return the whole groups of `clips`, trimmed to their longest caption; each clip's features come once."""
    rows = rows_of(captions.clip_index, clips)
    position = torch.full((len(captions.frames),), -1, dtype=torch.int64)
    position[clips] = torch.arange(len(clips))
    length = _longest(captions.action_mask[rows])
    return Captions(
        frames=captions.frames[clips],
        frame_mask=captions.frame_mask[clips],
        clip_index=position[captions.clip_index[rows]],
        tokens=captions.tokens[rows, :length],
        action_mask=captions.action_mask[rows, :length],
        temperature=captions.temperature,
        support_sizes=None if captions.support_sizes is None else captions.support_sizes[rows, :length],
    )


def take_minibatch(experience: Experience, clips: Int64[Tensor, " clip"]) -> Experience:
    """Return the whole groups of `clips` with their targets."""
    captions = take_clips(experience.captions, clips)
    rows = rows_of(experience.captions.clip_index, clips)
    return Experience(captions=captions, targets=experience.targets.rows(rows, captions.tokens.shape[1]))


def _support_sizes(rollouts: Sequence[RolloutBatch], kept: Sequence[np.ndarray]) -> Tensor | None:
    sizes = [
        batch.support_sizes[keep] for batch, keep in zip(rollouts, kept, strict=True) if batch.support_sizes is not None
    ]
    if len(sizes) not in (0, len(rollouts)):
        raise RlcapError("the rollouts of one update must all be drawn with top_k or top_p, or none of them")
    return torch.from_numpy(_stack_padded(sizes)) if sizes else None


def _longest(mask: Bool[Tensor, "batch token"]) -> int:
    """Return the number of columns up to the last valid token of any row, at least 1."""
    used = mask.any(dim=0).nonzero()
    return int(used.max()) + 1 if len(used) else 1


def _stack_padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Stack arrays along their first axis in new memory, the second padded with zeros to the longest."""
    first = arrays[0]
    longest = max(array.shape[1] for array in arrays)
    stacked = np.zeros((sum(len(array) for array in arrays), longest, *first.shape[2:]), dtype=first.dtype)
    start = 0
    for array in arrays:
        stacked[start : start + len(array), : array.shape[1]] = array
        start += len(array)
    return stacked


def _greedy_score_per_row(scored: ScoredRollouts) -> np.ndarray:
    """Return each rollout's baseline: NaN where it could not be had, 0 where none was asked for."""
    if scored.greedy_scores is None:
        return np.zeros(len(scored.rollouts.clip_index), dtype=np.float32)
    baselines: np.ndarray = scored.greedy_scores[scored.rollouts.clip_index]
    return baselines


def _only(found: set[Common], what: str) -> Common:
    if len(found) == 1:
        return next(iter(found))
    listed = ", ".join(str(one) for one in sorted(found))
    raise RlcapError(f"the rollouts of one update must share their {what}, got {listed}; update on each part alone")


def _check_sound(scored: ScoredRollouts) -> None:
    """Refuse what could only turn into NaN or silence further on."""
    rollouts, rewards = scored.rollouts, scored.rewards
    name = f"rollout batch {rollouts.batch_index}"
    if not len(rewards.scores) == len(rewards.failed) == len(rollouts.tokens):
        raise RlcapError(f"{name} has {len(rollouts.tokens)} captions but {len(rewards.scores)} scores")
    if not np.isfinite(rewards.scores[~rewards.failed]).all():
        raise RlcapError(f"{name} has a score that is not a finite number but is not marked as failed either")
    if scored.greedy_scores is not None:
        if len(scored.greedy_scores) != len(rollouts.clip_ids):
            raise RlcapError(f"{name} has {len(rollouts.clip_ids)} clips but {len(scored.greedy_scores)} greedy scores")
        if np.isinf(scored.greedy_scores).any():
            raise RlcapError(f"{name} has a greedy caption whose score is infinite")
    if not rollouts.action_mask.any(axis=1).all():
        raise RlcapError(f"{name} has a caption without a token; even an empty one ends with the end-of-sequence token")
    for kind in ("log_probs", "ref_log_probs", "values"):
        if not np.isfinite(getattr(rollouts, kind)[rollouts.action_mask]).all():
            raise RlcapError(f"{name} has {kind} that are not finite on sampled tokens")
