"""A typed handle to a shard's process. Importing it brings in no Torch: it travels to clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from reward_server.messages import ServedModel, ShardRequest, ShardScores, ShardStatistics

if TYPE_CHECKING:
    from reward_server.shadow import ShadowScores


class ShardHandle:
    """Typed calls of a `ShardActor`; each returns an ObjectRef of what the method of the same name returns."""

    def __init__(self, name: str, actor: ActorHandle) -> None:
        self.name = name
        self.actor = actor

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
