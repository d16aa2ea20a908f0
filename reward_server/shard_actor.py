"""The Ray actor around a shard, and a typed handle to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import ray
import torch
from jaxtyping import Int64
from numpy import ndarray
from ray import ObjectRef
from ray.actor import ActorHandle

from reward_server.cache import CacheCounts
from reward_server.shard import Shard, ShardScores
from reward_server.swap import Editions, ProbeReport, VersionedModel
from rlcap.config.cluster import ClusterConfig
from rlcap.config.reward import RewardConfig
from rlcap.errors import RewardError
from rlcap.types import Clip, RewardRequest

MERGED_REQUESTS = 16
"""Requests that a shard may merge at once where it need not be deterministic."""


@dataclass(frozen=True, slots=True)
class LiveModel:
    """A reward model in Ray's object store, and when it went live."""

    generation: int
    version: str
    model: ObjectRef[VersionedModel]
    """Inside this value Ray does not fetch it before it is needed."""


@dataclass(frozen=True, slots=True)
class ShardRequest:
    """The part of a request that one shard scores."""

    live: LiveModel
    """The latest model that the client knows: a shard that was restarted, or missed a swap, adopts it first."""
    clip_ids: tuple[str, ...]
    clips: ObjectRef[tuple[Clip, ...]]
    """Fetched only where an embedding is not cached."""
    captions: tuple[str, ...]
    clip_index: Int64[ndarray, " batch"]


@dataclass(frozen=True, slots=True)
class ShardAnswer:
    """Scores, and the model that gave them."""

    scores: ShardScores
    live: LiveModel


@dataclass(frozen=True, slots=True)
class ShardStatistics:
    """One shard now."""

    name: str
    process_id: int
    version: str
    generation: int
    cache: CacheCounts


class ShardActor:
    """A shard in a process of its own. A restart begins with `first`; the next request brings it up to date."""

    def __init__(self, name: str, first: LiveModel, config: RewardConfig) -> None:
        torch.set_num_threads(1)
        self._config = config
        self._live = first
        self._shard = Shard(name, Editions(first.generation, ray.get(first.model)), config)
        self._adopting = Lock()

    def score(self, request: ShardRequest) -> ShardAnswer:
        """Score a part of a request."""
        self.adopt(request.live)

        def read_clips(numbers: Sequence[int]) -> list[Clip]:
            try:
                clips = ray.get(request.clips)
            except ray.exceptions.RayError as error:
                raise RewardError(str(error)) from error
            return [clips[number] for number in numbers]

        with self._adopting:
            live, edition = self._live, self._shard.editions.live
        scores = self._shard.score(edition, request.clip_ids, read_clips, request.captions, request.clip_index)
        return ShardAnswer(scores, live)

    @ray.method(concurrency_group="swap", max_task_retries=0)
    def stage(self, candidate: LiveModel, probe_set: RewardRequest) -> ProbeReport:
        """Fetch a candidate and probe it beside the live model."""
        model: VersionedModel = ray.get(candidate.model)
        return self._shard.editions.stage(model, probe_set, self._config.probe)

    @ray.method(concurrency_group="swap")
    def discard_staged(self) -> None:
        """Let go of the candidate."""
        self._shard.editions.discard_staged()

    def adopt(self, live: LiveModel) -> None:
        """Make a later model live."""
        with self._adopting:
            if live.generation > self._live.generation:
                self._shard.editions.adopt(live.generation, live.version, lambda: ray.get(live.model))
                self._live = live

    def statistics(self) -> ShardStatistics:
        """What this shard is and has done."""
        live = self._shard.editions.live
        return ShardStatistics(
            self._shard.name, os.getpid(), live.model.version, live.generation, self._shard.cache_counts()
        )


class ShardHandle:
    """Typed calls of a `ShardActor`; each returns an ObjectRef of what the method of the same name returns."""

    def __init__(self, name: str, actor: ActorHandle) -> None:
        self.name = name
        self.actor = actor

    @classmethod
    def start(cls, name: str, first: LiveModel, config: RewardConfig, cluster: ClusterConfig) -> ShardHandle:
        """Start the actor; Ray restarts it, and retries what it was doing, whenever its process is lost."""
        actor = ray.remote(
            num_cpus=cluster.shard_cpus,
            num_gpus=cluster.shard_gpus,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=1 if config.deterministic else MERGED_REQUESTS,
            concurrency_groups={"swap": 1},
        )(ShardActor)
        return cls(name, actor.remote(name, first, config))

    def score(self, request: ShardRequest) -> ObjectRef[ShardAnswer]:
        """Score a part of a request."""
        return self.actor.score.remote(request)

    def stage(self, candidate: LiveModel, probe_set: RewardRequest) -> ObjectRef[ProbeReport]:
        """Probe a candidate."""
        return self.actor.stage.remote(candidate, probe_set)

    def discard_staged(self) -> ObjectRef[None]:
        """Let go of the candidate."""
        return self.actor.discard_staged.remote()

    def adopt(self, live: LiveModel) -> ObjectRef[None]:
        """Make a later model live."""
        return self.actor.adopt.remote(live)

    def statistics(self) -> ObjectRef[ShardStatistics]:
        """Ask what the shard is and has done."""
        return self.actor.statistics.remote()
