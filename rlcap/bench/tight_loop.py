"""The loop that one would write without Ray: the same captioner, reward model, sampler and learner, called in turn."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from actors.audio_cursor import AudioCursor
from learner.ppo_update import PPOUpdate
from reward_server.scoring import ClapReward
from rlcap.bench.run_parts import RunParts
from rlcap.captioners.loading import load_captioner
from rlcap.captioners.weights import publish
from rlcap.protocols import RewardClient
from rlcap.threads import limited_threads
from rlcap.types import RewardBatch, RewardRequest


@dataclass(frozen=True, slots=True)
class TightRound:
    """What some updates took."""

    captions_per_s: float
    reward_share: float
    """Of the time; the rest but for the update goes into sampling and what comes before it."""
    update_share: float


class TightLoop:
    """A run in one process; its state goes on from round to round."""

    def __init__(self, parts: RunParts, num_threads: int) -> None:
        config, plan = parts.config, parts.actor_plan()
        self._num_threads = num_threads
        self._num_batches = config.training.batches_per_update
        self._actor = plan.start_actor()
        self._update = PPOUpdate(load_captioner(plan.baseline), config.algorithm, seed=config.seed)
        self._reward = _DirectReward(ClapReward.load(parts.reward))
        clips_per_batch = config.training.clips_per_batch // self._num_batches
        self._cursor = AudioCursor(len(plan.source), clips_per_batch, config.seed)

    def run(self, num_updates: int) -> TightRound:
        """Take some updates, and time them."""
        self._reward.seconds = update_s = 0.0
        num_captions = 0
        begun = time.perf_counter()
        with limited_threads(self._num_threads):
            for _ in range(num_updates):
                version = self._update.policy_version
                results = [
                    self._actor.caption(self._cursor.next(), version, self._reward) for _ in range(self._num_batches)
                ]
                scored = [result.scored for result in results if result.scored is not None]
                sampled = time.perf_counter()
                self._update.update(scored)
                self._actor.load(publish(self._update.captioner, trainable_only=True))
                update_s += time.perf_counter() - sampled
                num_captions += sum(len(one.rollouts.captions) for one in scored)
        wall_s = time.perf_counter() - begun
        return TightRound(num_captions / wall_s, self._reward.seconds / wall_s, update_s / wall_s)


class _DirectReward(RewardClient):
    """The reward model itself as a `RewardClient`; like a shard it hears a clip once."""

    def __init__(self, model: ClapReward) -> None:
        self._model = model
        self._embedded: dict[str, Float32[np.ndarray, " dim"]] = {}
        self.seconds = 0.0

    @torch.inference_mode()
    def score(self, request: RewardRequest) -> RewardBatch:
        """Score every caption here and now."""
        begun = time.perf_counter()
        fresh = [clip for clip in request.clips if clip.clip_id not in self._embedded]
        if fresh:
            embedded = self._model.embed_audio(fresh)
            self._embedded.update(zip((clip.clip_id for clip in fresh), embedded, strict=True))
        audio = np.stack([self._embedded[clip.clip_id] for clip in request.clips])
        scores = self._model.score(audio, request.captions, request.clip_index)
        self.seconds += time.perf_counter() - begun
        return RewardBatch(scores, ~np.isfinite(scores), (), self._model.version)
