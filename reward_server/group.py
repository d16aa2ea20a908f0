"""The reward server: its shards, clients of it, and the swap of its model while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import ray
from ray import ObjectRef

from reward_server.client import ShardedRewardClient
from reward_server.scoring import ClapReward
from reward_server.shard_actor import LiveModel, ShardHandle, ShardStatistics
from reward_server.swap import ProbeReport, VersionedModel
from rlcap.config.cluster import ClusterConfig
from rlcap.config.reward import RewardConfig
from rlcap.errors import ActorLostError, RewardError
from rlcap.types import RewardRequest

Answer = TypeVar("Answer")


class RewardServer:
    """Starts the shards and swaps their model; lives in the driver, which must live as long as the shards."""

    def __init__(self, model: VersionedModel, config: RewardConfig, cluster: ClusterConfig) -> None:
        self._config = config
        # Kept for good: a shard that is restarted begins with it, whatever is live by then.
        self._first = LiveModel(0, model.version, ray.put(model))
        self._live = self._first
        self._previous: LiveModel | None = None
        self._staged: LiveModel | None = None
        self.shards = [
            ShardHandle.start(f"shard-{number}", self._live, config, cluster) for number in range(config.num_shards)
        ]

    @classmethod
    def start(cls, directory: Path, config: RewardConfig, cluster: ClusterConfig) -> RewardServer:
        """Serve the reward model in `directory`; returns once every shard answers.

        Raises:
            CheckpointError: the directory does not hold a reward model.
            ActorLostError: a shard did not start in time.
        """
        server = cls(ClapReward.load(directory), config, cluster)
        server.wait_until_ready(cluster.start_timeout_s)
        return server

    @property
    def version(self) -> str:
        """Version of the live model."""
        return self._live.version

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return once every shard answers. Raises ActorLostError that names one which does not in time."""
        self._ask([shard.statistics() for shard in self.shards], "start", timeout_s)

    def client(self, *, hear_other_clips: bool = False) -> ShardedRewardClient:
        """A client of the shards, for other processes; as a control, one that scores against the wrong clips."""
        return ShardedRewardClient(self.shards, self._live, self._config.timeout_s, hears_other_clips=hear_other_clips)

    def stage(self, candidate: VersionedModel, probe_set: RewardRequest) -> ProbeReport:
        """Bring a candidate to every shard and probe it there, beside the live model, which goes on scoring.

        Raises:
            RewardError: the candidate has a fault; the live model stays, and no shard keeps the candidate.
            ActorLostError: a shard did not answer in time; likewise.
        """
        staged = LiveModel(self._live.generation + 1, candidate.version, ray.put(candidate))
        self._staged = None
        try:
            reports: list[ProbeReport] = self._ask(
                [shard.stage(staged, probe_set) for shard in self.shards], "probe the candidate"
            )
        except ActorLostError:
            self._discard()
            raise
        faulty = {shard.name: report for shard, report in zip(self.shards, reports, strict=True) if report.faults}
        if faulty:
            self._discard()
            name, report = next(iter(faulty.items()))
            raise RewardError(
                f"reward model {candidate.version} was refused and {self._live.version} stays live: "
                f"at {name}, {'; '.join(report.faults)}"
            )
        self._staged = staged
        return reports[0]

    def commit(self) -> None:
        """Make the staged candidate live. Requests that are under way end by one version, the old or the new.

        Raises:
            RewardError: nothing is staged.
            ActorLostError: a shard did not answer in time; it adopts the model with its next request.
        """
        if self._staged is None:
            raise RewardError("no reward model is staged: stage a candidate first")
        self._make_live(self._staged)

    def rollback(self) -> None:
        """Make the model live that was live before the last commit or rollback.

        Raises:
            RewardError: no model was live before.
            ActorLostError: a shard did not answer in time; it adopts the model with its next request.
        """
        if self._previous is None:
            raise RewardError(f"there is nothing to roll back to: {self._live.version} has been live from the start")
        previous = self._previous
        self._make_live(LiveModel(self._live.generation + 1, previous.version, previous.model))

    def statistics(self) -> list[ShardStatistics]:
        """What each shard is and has done. Raises ActorLostError where one does not answer in time."""
        return self._ask([shard.statistics() for shard in self.shards], "give its statistics")

    def stop(self) -> None:
        """End the shards' processes."""
        for shard in self.shards:
            ray.kill(shard.actor)

    def _make_live(self, live: LiveModel) -> None:
        self._previous, self._live, self._staged = self._live, live, None
        self._ask([shard.adopt(live) for shard in self.shards], f"adopt reward model {live.version}")

    def _discard(self) -> None:
        # Not waited for: a candidate that stays behind is never used, since only `commit` makes one live.
        for shard in self.shards:
            shard.discard_staged()

    def _ask(self, references: Sequence[ObjectRef[Answer]], what: str, timeout_s: float | None = None) -> list[Answer]:
        """Wait for every shard. Raises ActorLostError that names the first that gave no answer."""
        timeout_s = self._config.timeout_s if timeout_s is None else timeout_s
        done, _ = ray.wait(list(references), num_returns=len(references), timeout=timeout_s)
        for shard, reference in zip(self.shards, references, strict=True):
            if reference not in done:
                raise ActorLostError(f"{shard.name} did not {what} within {timeout_s:g} s")
        try:
            answers: list[Answer] = ray.get(list(references))
        except ray.exceptions.RayActorError as error:
            raise ActorLostError(f"a shard of the reward server was lost when asked to {what}: {error}") from error
        return answers
