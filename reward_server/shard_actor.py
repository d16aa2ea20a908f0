"""The Ray actor around a shard."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ray

from reward_server.messages import ServedModel, ShardRequest, ShardScores, ShardStatistics
from reward_server.shadow import Shadow, ShadowScores
from reward_server.shard_handle import ShardHandle
from rlcap.config.cluster import ClusterConfig, placed_on
from rlcap.config.reward import RewardConfig
from rlcap.errors import RewardError
from rlcap.stacks import show_stack_on_signal
from rlcap.types import Clip

if TYPE_CHECKING:
    from reward_server.versioned_model import VersionedModel

SWITCH_INTERVAL_S = 0.0005
"""After so long a thread that unpacks requests makes way for the one that runs the model; Python's own is 5 ms."""
FETCH_TIMEOUT_S = 120.0
"""Longest wait for a model or for audio to come from the process that holds it."""
OPEN_REQUESTS = 32
"""Requests that a shard has in hand at once: being fetched, queued or scored. More of them wait in Ray."""


class SuppliesNeededError(Exception):
    """A shard lacks the model or the audio for a request that came without; it is to be asked again with them."""


class ShardActor:
    """A shard in a process of its own. It begins without a model: requests name the one they are for."""

    def __init__(self, name: str, config: RewardConfig, num_threads: int) -> None:
        # Ray imports this module wherever a handle comes to: Torch is for the process of the shard alone.
        import torch

        from reward_server.model_shelf import ModelShelf
        from reward_server.shard import Shard

        show_stack_on_signal()
        torch.set_num_threads(num_threads)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self._models = ModelShelf(device, config.memory_mb)
        self._shard = Shard(name, config)
        self._shadow = Shadow()

    def score(self, request: ShardRequest) -> ShardScores | None:
        """Score a part of a request; None where the shard lacks the model or the audio, and was not given them."""
        try:
            scores = self._score(request, self._model_for(request))
        except SuppliesNeededError:
            return None
        if request.shadow is not None:
            shadow = self._load(request.shadow)
            self._shadow.compare(scores, shadow.version, lambda: self._score(request, shadow).scores)
        return scores

    @ray.method(concurrency_group="control")
    def stage(self, candidate: ServedModel, live_version: str) -> None:
        """Load a candidate beside the live model. Raises RewardError where there is no room for both."""
        shared = self._models.towers(candidate.towers_fingerprint) is not None
        num_bytes = candidate.num_bytes - candidate.towers_bytes * shared
        self._models.make_room(num_bytes, keep=live_version)
        self._load(candidate)

    @ray.method(concurrency_group="control")
    def discard(self, version: str) -> None:
        """Let go of a model."""
        self._models.drop(version)

    @ray.method(concurrency_group="control")
    def shadow_scores(self, version: str) -> ShadowScores:
        """The latest scores of a shadow beside those that were used."""
        return self._shadow.scores(version)

    @ray.method(concurrency_group="watch")
    def statistics(self) -> ShardStatistics:
        """What this shard is and has done."""
        shard = self._shard
        return ShardStatistics(
            shard.name,
            os.getpid(),
            ray.util.get_node_ip_address(),
            self._models.versions,
            shard.num_embedded,
            shard.cache_counts(),
            shard.batch_counts(),
            shard.load(),
        )

    def _load(self, served: ServedModel) -> VersionedModel:
        return self._models.get(served.version, lambda: self._fetch(served))

    def _model_for(self, request: ShardRequest) -> VersionedModel:
        def load() -> VersionedModel:
            if request.supplies is None:
                raise SuppliesNeededError
            return self._fetch(request.supplies.model)

        return self._models.get(request.version, load)

    def _fetch(self, served: ServedModel) -> VersionedModel:
        """Get a model from the object store, its towers only where no other model stands on them here."""
        towers = self._models.towers(served.towers_fingerprint)
        model: VersionedModel = ray.get(served.model, timeout=FETCH_TIMEOUT_S)
        return model.over(ray.get(served.towers, timeout=FETCH_TIMEOUT_S) if towers is None else towers)

    def _score(self, request: ShardRequest, model: VersionedModel) -> ShardScores:
        def read_clips(numbers: Sequence[int]) -> list[Clip]:
            if request.supplies is None:
                raise SuppliesNeededError
            try:
                clips = ray.get(request.supplies.clips, timeout=FETCH_TIMEOUT_S)
            except ray.exceptions.RayError as error:
                raise RewardError(str(error)) from error
            return [clips[number] for number in numbers]

        return self._shard.score(model, request.clip_ids, read_clips, request.captions, request.clip_index)


def start_shard(name: str, config: RewardConfig, cluster: ClusterConfig) -> ShardHandle:
    """Start a shard; Ray restarts it whenever its process is lost. What it was doing, callers ask others for."""
    actor = ray.remote(
        num_cpus=cluster.shard_cpus,
        num_gpus=cluster.shard_gpus,
        resources=placed_on(cluster.shard_nodes),
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=OPEN_REQUESTS,
        concurrency_groups={"control": 1, "watch": 1},
    )(ShardActor)
    return ShardHandle(name, actor.remote(name, config, max(1, int(cluster.shard_cpus))))
