"""The caption actor under RLlib: an `EnvRunner` for its life cycle, called directly for its work.

RLlib creates, probes and restarts it; rollouts never travel through RLlib's episodes. The algorithm calls
`caption` on the actor handles, with the weights as an object reference, so that a restarted actor is never stale.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner

from actors.audio_cursor import CursorBatch
from actors.caption_actor import CaptionActor
from actors.messages import RewardReference, RolloutInfo
from rlcap.captioners.loading import load_captioner
from rlcap.captioners.master_weights import CPU
from rlcap.captioners.weights import FlatWeights
from rlcap.config.captioner import SamplingConfig
from rlcap.protocols import AudioSource, RewardClient
from rlcap.stacks import show_stack_on_signal
from rlcap.types import ScoredRollouts

STUB_SPACE = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
"""RLlib insists on spaces; a caption is one action sequence, and there is no environment."""

SWITCH_INTERVAL_S = 0.0005
"""After so long the thread that decodes makes way for the one that samples; Python's own is 5 ms."""
FETCH_TIMEOUT_S = 60.0
"""Longest wait for a small object; the driver, which holds it, is gone then."""


def stub_spaces() -> dict[str, tuple[gym.Space, gym.Space]]:
    """Return what RLlib's module specs ask of an actor."""
    spaces = (STUB_SPACE, STUB_SPACE)
    return {INPUT_ENV_SPACES: spaces, INPUT_ENV_SINGLE_SPACES: spaces, DEFAULT_MODULE_ID: spaces}


@dataclass(frozen=True, slots=True)
class ActorPlan:
    """Everything a caption actor needs to start, or to start again."""

    source: AudioSource
    baseline: Path
    """Captioner directory: the frozen reference, and the policy before its first update."""
    sampling: SamplingConfig
    samples_per_clip: int
    num_threads: int
    with_greedy: bool = False
    """Whether each clip's greedy caption is scored as well."""

    def start_actor(self, device: torch.device | None = None, *, overlaps: bool = False) -> CaptionActor:
        """Load the policy, and its frozen reference; an actor that `overlaps` has one request after the other."""
        policy = load_captioner(self.baseline, device or CPU)
        return CaptionActor(
            self.source,
            policy=policy,
            reference=policy.frozen_reference(),
            sampling=self.sampling,
            samples_per_clip=self.samples_per_clip,
            with_greedy=self.with_greedy,
            overlaps=overlaps,
            device=device,
        )


class CaptionEnvRunner(EnvRunner):
    """A caption actor that RLlib can create and restart; `config.env_config` holds the plan."""

    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:  # noqa: ANN401 - RLlib's signature
        show_stack_on_signal()
        super().__init__(config=config, **kwargs)
        plan: ActorPlan = config.env_config["plan"]
        torch.set_num_threads(plan.num_threads)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self._actor = plan.start_actor(device, overlaps=config.env_config["overlaps"])
        self._policy_version = -1
        self._reward: RewardReference | None = None
        self._reward_client: RewardClient

    def caption(
        self,
        batch: CursorBatch,
        policy_version: int,
        weights: FlatWeights,
        reward: RewardReference,
        upcoming: CursorBatch,
    ) -> tuple[ScoredRollouts | None, RolloutInfo]:
        """Caption one cursor batch with these weights, loading them when their version is new, and have it scored.

        The batch that will probably be asked for next is heard in the background. Called with two returns: the rollouts
        stay in the object store, the info goes to the driver.
        """
        start, began_at_s = time.monotonic(), time.time()
        if policy_version != self._policy_version:
            self._actor.load(weights)
            self._policy_version = policy_version
            load_s = time.monotonic() - start
        else:
            load_s = 0.0
        if reward != self._reward:
            self._reward, self._reward_client = reward, ray.get(reward.client, timeout=FETCH_TIMEOUT_S)
        result = self._actor.caption(batch, policy_version, self._reward_client, upcoming)
        info = RolloutInfo(
            policy_version=policy_version,
            reward_version=result.scored.rewards.reward_version if result.scored else "",
            num_captions=len(result.scored.rollouts.captions) if result.scored else 0,
            audio_s=result.audio_s,
            began_at_s=began_at_s,
            wall_s=time.monotonic() - start,
            audio_wait_s=result.audio_wait_s,
            load_s=load_s,
            quarantined=result.quarantined,
        )
        return result.scored, info

    def sample(self, **_: Any) -> Any:  # noqa: ANN401 - RLlib's signature
        """Refuse: rollouts are asked for by `caption`."""
        raise NotImplementedError("caption actors are called through `caption`, not `sample`")

    def get_spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        """Return the stub spaces that RLlib's module specs ask for."""
        return stub_spaces()

    def assert_healthy(self) -> None:
        """Prove that construction has finished."""
        assert self._actor

    def get_state(self, *_: object, **__: object) -> dict[str, Any]:
        """Return nothing: weights and randomness come with every request."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Accept RLlib's state without using it: weights come with every request."""
