"""What travels between clients and shards. Importing it brings in no Torch: clients need none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import ray
from jaxtyping import Bool, Float32, Int64
from ray import ObjectRef

from reward_server.cache import CacheCounts
from reward_server.load_meter import ShardLoad
from reward_server.micro_batching import BatchCounts
from rlcap.types import Clip

if TYPE_CHECKING:
    from reward_server.clap import Clap
    from reward_server.versioned_model import VersionedModel


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
    clip_index: Int64[np.ndarray, " batch"]
    supplies: Supplies | None
    """None where the shard should have heard the clips before."""
    shadow: ServedModel | None
    """A candidate that scores the same, for comparison alone."""


@dataclass(frozen=True, slots=True)
class ShardScores:
    """Scores of one request by one version; NaN exactly where `failed`."""

    scores: Float32[np.ndarray, " batch"]
    failed: Bool[np.ndarray, " batch"]
    failure_reasons: tuple[str, ...]
    version: str


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
