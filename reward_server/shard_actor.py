"""The Ray actor around a shard, and a typed handle to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import ray
import torch
from jaxtyping import Int64
from numpy import ndarray
from ray import ObjectRef
from ray.actor import ActorHandle

from reward_server.cache import CacheCounts
from reward_server.load_meter import ShardLoad
from reward_server.micro_batching import BatchCounts
from reward_server.model_shelf import ModelShelf
from reward_server.shadow import Shadow, ShadowScores
from reward_server.shard import Shard, ShardScores
from reward_server.versioned_model import VersionedModel
from rlcap.config.cluster import ClusterConfig
from rlcap.config.reward import RewardConfig
from rlcap.errors import RewardError
from rlcap.types import Clip

SWITCH_INTERVAL_S = 0.0005
"""After so long a thread that unpacks requests makes way for the one that runs the model; Python's own is 5 ms."""
OPEN_REQUESTS = 32
"""Requests that a shard has in hand at once: being fetched, queued or scored. More of them wait in Ray."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A reward model in Ray's object store."""

    version: str
    num_bytes: int
    model: ObjectRef[VersionedModel]
    """Inside this value Ray does not fetch it before it is needed."""

    @classmethod
    def put(cls, model: VersionedModel) -> ServedModel:
        """Put a model into the object store; it stays there as long as this value is held by its owner."""
        return cls(model.version, model.num_bytes, ray.put(model))


@dataclass(frozen=True, slots=True)
class ShardRequest:
    """The part of a request that one shard scores."""

    model: ServedModel
    """What to score with: a shard that was restarted, or missed a swap, loads it first."""
    shadow: ServedModel | None
    """A candidate that scores the same, for comparison alone."""
    clip_ids: tuple[str, ...]
    clips: ObjectRef[tuple[Clip, ...]]
    """Fetched only where an embedding is not cached."""
    captions: tuple[str, ...]
    clip_index: Int64[ndarray, " batch"]


@dataclass(frozen=True, slots=True)
class ShardStatistics:
    """One shard now."""

    name: str
    process_id: int
    node: str
    versions: tuple[str, ...]
    """Of the reward models that it holds."""
    num_embedded: int
    """Passes of the audio tower, one clip each."""
    cache: CacheCounts
    batches: BatchCounts
    load: ShardLoad


class ShardActor:
    """A shard in a process of its own. It begins without a model: requests name the one they are for."""

    def __init__(self, name: str, config: RewardConfig, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self._models = ModelShelf(device, config.memory_mb)
        self._shard = Shard(name, config)
        self._shadow = Shadow()

    def score(self, request: ShardRequest) -> ShardScores:
        """Score a part of a request."""
        scores = self._score(request, request.model)
        if request.shadow is not None and request.shadow.version != request.model.version:
            shadow = request.shadow
            self._shadow.compare(scores, shadow.version, lambda: self._score(request, shadow).scores)
        return scores

    @ray.method(concurrency_group="control")
    def stage(self, candidate: ServedModel, live_version: str) -> None:
        """Load a candidate beside the live model. Raises RewardError where there is no room for both."""
        self._models.make_room(candidate.num_bytes, keep=live_version)
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
        return self._models.get(served.version, lambda: ray.get(served.model))

    def _score(self, request: ShardRequest, served: ServedModel) -> ShardScores:
        def read_clips(numbers: Sequence[int]) -> list[Clip]:
            try:
                clips = ray.get(request.clips)
            except ray.exceptions.RayError as error:
                raise RewardError(str(error)) from error
            return [clips[number] for number in numbers]

        return self._shard.score(self._load(served), request.clip_ids, read_clips, request.captions, request.clip_index)


class ShardHandle:
    """Typed calls of a `ShardActor`; each returns an ObjectRef of what the method of the same name returns."""

    def __init__(self, name: str, actor: ActorHandle) -> None:
        self.name = name
        self.actor = actor

    @classmethod
    def start(cls, name: str, config: RewardConfig, cluster: ClusterConfig) -> ShardHandle:
        """Start the actor; Ray restarts it whenever its process is lost. What it was doing, callers ask others for."""
        actor = ray.remote(
            num_cpus=cluster.shard_cpus,
            num_gpus=cluster.shard_gpus,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=OPEN_REQUESTS,
            concurrency_groups={"control": 1, "watch": 1},
        )(ShardActor)
        return cls(name, actor.remote(name, config, max(1, int(cluster.shard_cpus))))

    def score(self, request: ShardRequest) -> ObjectRef[ShardScores]:
        """Score a part of a request."""
        return self.actor.score.remote(request)

    def stage(self, candidate: ServedModel, live_version: str) -> ObjectRef[None]:
        """Load a candidate."""
        return self.actor.stage.remote(candidate, live_version)

    def discard(self, version: str) -> ObjectRef[None]:
        """Let go of a model."""
        return self.actor.discard.remote(version)

    def shadow_scores(self, version: str) -> ObjectRef[ShadowScores]:
        """Ask for the latest scores of a shadow."""
        return self.actor.shadow_scores.remote(version)

    def statistics(self) -> ObjectRef[ShardStatistics]:
        """Ask what the shard is and has done."""
        return self.actor.statistics.remote()

    def restart(self) -> None:
        """End the process; Ray starts it again."""
        ray.kill(self.actor, no_restart=False)

    def stop(self) -> None:
        """End the process for good."""
        ray.kill(self.actor)
