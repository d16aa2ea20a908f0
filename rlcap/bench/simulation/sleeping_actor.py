"""A caption actor that sleeps where a captioner would sample. Importing it brings in neither Torch nor RLlib.

Requests, weights, audio and rollouts are as large as real ones and travel as real ones do, scores come from the real
reward server; the numbers in them mean nothing.
"""

from __future__ import annotations

import time
from enum import Enum

import numpy as np
import ray
from jaxtyping import UInt8
from ray.actor import ActorHandle

from actors.audio_cursor import CursorBatch
from actors.messages import RewardReference, RolloutInfo
from rlcap.bench.simulation.speeds import Shape, Speeds
from rlcap.protocols import RewardClient
from rlcap.types import Clip, PolicyFeatures, RewardRequest, RolloutBatch, ScoredRollouts

CLIP_S, SAMPLE_RATE_HZ = 10.0, 16_000
NUM_TOKENS = 24
MEL_BINS = 64
FLOAT_BYTES = 4


class Doing(Enum):
    """What an actor is at."""

    idling = "idling"
    """It has no request."""
    loading = "loading"
    """It fetches what a request refers to, and copies new weights."""
    sampling = "sampling"
    scoring = "scoring"
    """It waits for the reward server."""


class TimeSheet:
    """Adds up how long a process has been at what."""

    def __init__(self) -> None:
        self._spent_s = dict.fromkeys(Doing, 0.0)
        self._doing, self._since = Doing.idling, time.monotonic()

    def turn_to(self, doing: Doing) -> None:
        """Note that something else begins now."""
        now = time.monotonic()
        self._spent_s[self._doing] += now - self._since
        self._doing, self._since = doing, now

    def spent_s(self) -> dict[Doing, float]:
        """Seconds so far; what is under way counts up to now."""
        spent_s = dict(self._spent_s)
        spent_s[self._doing] += time.monotonic() - self._since
        return spent_s


class SleepingActor:
    """Answers requests as a `CaptionEnvRunner` does."""

    def __init__(self, number: int, speeds: Speeds, shape: Shape) -> None:
        self._number = number
        self._speeds = speeds
        self._clip_index = np.arange(shape.clips_per_batch).repeat(shape.samples_per_clip)
        self._waveform = np.zeros(int(CLIP_S * SAMPLE_RATE_HZ), dtype=np.float32)
        self._features = _features(speeds, shape)
        self._weights = np.zeros(int(1e6 * speeds.weights_mb), dtype=np.uint8)
        self._policy_version = -1
        self._reward: RewardReference | None = None
        self._reward_client: RewardClient
        self._sheet = TimeSheet()
        # The actors of a run that has gone on for a while are out of step: the first batch is one that has begun.
        self._share_left = float(np.random.default_rng(number).uniform())

    def caption(
        self,
        batch: CursorBatch,
        policy_version: int,
        weights: UInt8[np.ndarray, " byte"],
        reward: RewardReference,
        upcoming: CursorBatch,  # noqa: ARG002 - there is nothing to decode
    ) -> tuple[ScoredRollouts, RolloutInfo]:
        """Take over new weights, sleep, and have captions scored."""
        start, began_at_s = time.monotonic(), time.time()
        self._sheet.turn_to(Doing.loading)
        if policy_version != self._policy_version:
            np.copyto(self._weights, weights)
            self._policy_version = policy_version
        if reward != self._reward:
            self._reward, self._reward_client = reward, ray.get(reward.client)
        loaded = time.monotonic()
        self._sheet.turn_to(Doing.sampling)
        time.sleep(self._share_left * self._speeds.sampling_s(self._number, batch.seed))
        self._share_left = 1.0
        clips = tuple(Clip(f"clip-{position}", self._waveform, SAMPLE_RATE_HZ) for position in batch.positions)
        rollouts = self._rollouts(batch, clips, policy_version)
        self._sheet.turn_to(Doing.scoring)
        rewards = self._reward_client.score(RewardRequest(clips, rollouts.captions, rollouts.clip_index))
        self._sheet.turn_to(Doing.idling)
        info = RolloutInfo(
            policy_version=policy_version,
            reward_version=rewards.reward_version,
            num_captions=len(rollouts.captions),
            audio_s=CLIP_S * len(clips),
            began_at_s=began_at_s,
            wall_s=time.monotonic() - start,
            audio_wait_s=0.0,
            load_s=loaded - start,
            quarantined=(),
        )
        return ScoredRollouts(rollouts, rewards), info

    def ping(self) -> str:
        """Answer, once this process has started."""
        return "pong"

    @ray.method(concurrency_group="watch")
    def spent_s(self) -> dict[Doing, float]:
        """What this actor has done with its time; it answers while it samples."""
        return self._sheet.spent_s()

    def _rollouts(self, batch: CursorBatch, clips: tuple[Clip, ...], policy_version: int) -> RolloutBatch:
        shape = (len(self._clip_index), NUM_TOKENS)
        log_probs = np.zeros(shape, dtype=np.float32)
        return RolloutBatch(
            clip_ids=tuple(clip.clip_id for clip in clips),
            features=self._features,
            clip_index=self._clip_index,
            tokens=np.zeros(shape, dtype=np.int64),
            action_mask=np.ones(shape, dtype=bool),
            log_probs=log_probs,
            ref_log_probs=log_probs,
            values=log_probs,
            truncated=np.zeros(len(self._clip_index), dtype=bool),
            captions=("a dog barks twice while rain falls on a tin roof",) * len(self._clip_index),
            temperature=1.0,
            policy_version=policy_version,
            batch_index=batch.batch_index,
        )


def start_sleeping_actors(speeds: Speeds, shape: Shape) -> dict[int, ActorHandle]:
    """Start the actors of a run, by number from 1 as RLlib counts them; returns once each has been asked to start."""
    actor = ray.remote(num_cpus=1, max_restarts=-1, concurrency_groups={"watch": 1})(SleepingActor)
    return {number + 1: actor.remote(number, speeds, shape) for number in range(shape.num_actors)}


def _features(speeds: Speeds, shape: Shape) -> PolicyFeatures:
    num_frames = max(1, int(1e6 * speeds.rollouts_mb / (shape.clips_per_batch * MEL_BINS * FLOAT_BYTES)))
    frames = np.zeros((shape.clips_per_batch, num_frames, MEL_BINS), dtype=np.float32)
    return PolicyFeatures(frames, np.ones(frames.shape[:2], dtype=bool))
