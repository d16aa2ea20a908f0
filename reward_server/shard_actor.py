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
from reward_server.clap import Clap
from reward_server.load_meter import ShardLoad
from reward_server.micro_batching import BatchCounts
from reward_server.model_shelf import ModelShelf
from reward_server.shadow import Shadow, ShadowScores
from reward_server.shard import Shard, ShardScores
from reward_server.versioned_model import VersionedModel
from rlcap.config.cluster import ClusterConfig, placed_on
from rlcap.config.reward import RewardConfig
from rlcap.errors import RewardError
from rlcap.stacks import show_stack_on_signal
from rlcap.types import Clip

SWITCH_INTERVAL_S = 0.0005
"""After so long a thread that unpacks requests makes way for the one that runs the model; Python's own is 5 ms."""
FETCH_TIMEOUT_S = 120.0
"""Longest wait for a model or for audio to come from the process that holds it."""
OPEN_REQUESTS = 32
"""Requests that a shard has in hand at once: being fetched, queued or scored. More of them wait in Ray."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A reward model in Ray's object store, its towers apart; inside this value Ray fetches neither by itself."""

    version: str
    towers_fingerprint: str
    towers_bytes: int
    num_bytes: int
    """Of both parts."""
    towers: ObjectRef[Clap]
    model: ObjectRef[VersionedModel]

    @classmethod
    def put(cls, model: VersionedModel, others: Sequence[ServedModel] = ()) -> ServedModel:
        """Put a model into the object store, its towers only where none of the others has them there.

        It stays there as long as this value is held by its owner.
        """
        fingerprint = model.towers_fingerprint
        shared = [other.towers for other in others if other.towers_fingerprint == fingerprint]
        return cls(
            model.version,
            fingerprint,
            model.towers_bytes,
            model.num_bytes,
            shared[0] if shared else ray.put(model.towers),
            ray.put(model.without_towers()),
        )


@dataclass(frozen=True, slots=True)
class Supplies:
    """What a shard may lack for a request; to send it costs more than the rest of the request."""

    model: ServedModel
    """A shard that was restarted, or missed a swap, loads it first."""
    clips: ObjectRef[tuple[Clip, ...]]
    """Fetched only where an embedding is not cached."""


@dataclass(frozen=True, slots=True)
class ShardRequest:
    """The part of a request that one shard scores."""

    version: str
    """Of the model to score with."""
    clip_ids: tuple[str, ...]
    captions: tuple[str, ...]
    clip_index: Int64[ndarray, " batch"]
    supplies: Supplies | None
    """None where the shard should have heard the clips before."""
    shadow: ServedModel | None
    """A candidate that scores the same, for comparison alone."""


class SuppliesNeededError(Exception):
    """A shard lacks the model or the audio for a request that came without; it is to be asked again with them."""


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
            resources=placed_on(cluster.shard_nodes),
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=OPEN_REQUESTS,
            concurrency_groups={"control": 1, "watch": 1},
        )(ShardActor)
        return cls(name, actor.remote(name, config, max(1, int(cluster.shard_cpus))))

    def score(self, request: ShardRequest) -> ObjectRef[ShardScores | None]:
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
