"""The values that travel between processes: clips, rollouts, rewards.

Each stage makes a new frozen value; nothing has fields to be filled in later. Arrays are numpy, not
torch: Ray shares them between processes without a copy, and readers must not write to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64


@dataclass(frozen=True, slots=True)
class Clip:
    """One mono recording."""

    clip_id: str
    waveform: Float32[np.ndarray, " sample"]
    """Samples in [-1, 1], finite, at least one."""
    sample_rate_hz: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file that could not be used, and why, in words for the user."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class PolicyFeatures:
    """What the policy hears of C clips, padded to the longest: spectrograms, or what a frozen encoder makes of them.

    True in `frame_mask` where a frame is real.
    """

    frames: Float32[np.ndarray, "clip frame mel"]
    frame_mask: Bool[np.ndarray, "clip frame"]


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """Whole groups of rollouts: B sampled captions, right-padded to L tokens, over C clips."""

    clip_ids: tuple[str, ...]
    """The C clips, in the order of `features`."""
    features: PolicyFeatures
    clip_index: Int64[np.ndarray, " batch"]
    """Which of the C clips each rollout describes; rollouts of a group are adjacent."""
    tokens: Int64[np.ndarray, "batch token"]
    action_mask: Bool[np.ndarray, "batch token"]
    """True on every sampled token, the end-of-sequence token included."""
    log_probs: Float32[np.ndarray, "batch token"]
    """Behaviour log-probs, from the sampler, at the sampling temperature."""
    ref_log_probs: Float32[np.ndarray, "batch token"]
    """The same tokens under the frozen reference, at the same temperature."""
    values: Float32[np.ndarray, "batch token"]
    """The critic's value of the state before each token."""
    truncated: Bool[np.ndarray, " batch"]
    """True where the length limit ended the caption, not the end-of-sequence token."""
    captions: tuple[str, ...]
    """The decoded text of each rollout, as the reward model reads it."""
    temperature: float
    policy_version: int
    batch_index: int
    """The cursor position that asked for these rollouts: unique in a run."""
    dtypes: tuple[str, ...] = ("float32",)
    """What computed `log_probs`: those of the sampler's weights, and of what it was sent."""
    support_sizes: Int64[np.ndarray, "batch token"] | None = None
    """How many of the most probable tokens each was drawn from; None where it was from all."""


@dataclass(frozen=True, slots=True)
class RewardBatch:
    """One score a rollout, all by one reward version.

    `failed` marks the scores that could not be had; `scores` is NaN exactly there, so that no reader can
    mistake a failure for a number.
    """

    scores: Float32[np.ndarray, " batch"]
    failed: Bool[np.ndarray, " batch"]
    failure_reasons: tuple[str, ...]
    """Distinct reasons behind `failed`; empty when nothing failed."""
    reward_version: str


@dataclass(frozen=True, slots=True)
class ScoredRollouts:
    """What an actor hands to the learner."""

    rollouts: RolloutBatch
    rewards: RewardBatch
    greedy_scores: Float32[np.ndarray, " clip"] | None = None
    """Of the greedy caption of each clip, by the same reward version, NaN where it could not be had; None where the
    algorithm needs none."""


@dataclass(frozen=True, slots=True)
class RewardRequest:
    """Captions of C clips to be scored. `clip_index[i]` is the clip that `captions[i]` describes."""

    clips: tuple[Clip, ...]
    captions: tuple[str, ...]
    clip_index: Int64[np.ndarray, " batch"]
