"""The reward server: its shards, clients of it, and the swap of its model while a run goes on."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import ray
from ray import ObjectRef

from reward_server.client import Patience, ShardedRewardClient
from reward_server.messages import ServedModel, ShardStatistics
from reward_server.roster import Roster
from reward_server.scoring import ClapReward
from reward_server.shadow import ShadowScores
from reward_server.shard_actor import start_shard
from reward_server.shard_handle import ShardHandle
from reward_server.swap import ProbeReport, judge_candidate, rank_agreement
from reward_server.versioned_model import VersionedModel
from rlcap.config.cluster import ClusterConfig
from rlcap.config.reward import RewardConfig
from rlcap.errors import ActorLostError, RewardError, RlcapError
from rlcap.types import RewardBatch, RewardRequest

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
PAUSES = 2
"""Time that a probe leaves to the traffic after each clip, in units of the time that it took itself."""


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What a shadow made of the traffic so far."""

    version: str
    num_captions: int
    num_skipped: int
    """Requests that it did not score, since it lagged behind."""
    rank_agreement: float | None
    """Spearman correlation with the scores that were used."""
    faults: tuple[str, ...]


class RewardServer:
    """Starts the shards and swaps their model; lives in the driver, which must live as long as the shards.

    One thread at a time may change it. A change reaches the actors with the next client that they are given.
    """

    def __init__(self, model: VersionedModel, config: RewardConfig, cluster: ClusterConfig) -> None:
        self._config = config
        self._cluster = cluster
        self._live = ServedModel.put(model)
        self._previous: ServedModel | None = None
        self._staged: ServedModel | None = None
        self._shadowing = False
        self._num_started = 0
        self.num_replaced = 0
        """Shards that hung and were started anew."""
        self._replaced_at: dict[str, float] = {}
        self.roster = Roster({})
        for _ in range(config.num_shards):
            self.roster = self.roster.with_owner(self._start_shard())

    @classmethod
    def start(cls, directory: Path, config: RewardConfig, cluster: ClusterConfig) -> RewardServer:
        """Serve the reward model in `directory`; returns once every shard answers.

        Raises:
            CheckpointError: the directory does not hold a reward model.
            ActorLostError: a shard did not start in time.
            RewardError: a shard has no memory for the model.
        """
        server = cls(ClapReward.load(directory), config, cluster)
        server.wait_until_ready()
        return server

    @property
    def version(self) -> str:
        """Version of the live model."""
        return self._live.version

    @property
    def previous_version(self) -> str | None:
        """Version that a rollback would make live."""
        return self._previous.version if self._previous else None

    @property
    def staged_version(self) -> str | None:
        """Version of the candidate, where there is one."""
        return self._staged.version if self._staged else None

    @property
    def max_batch_size(self) -> int:
        """Captions that a shard reads in one pass at most."""
        return self._config.max_batch_size

    def wait_until_ready(self) -> None:
        """Return once every shard holds the live model. Raises ActorLostError that names one which does not in time."""
        self._load(self._live, self.roster.shards, self._cluster.start_timeout_s)

    def client(self, *, hear_other_clips: bool = False) -> ShardedRewardClient:
        """A client that scores by the model live now; as a control, one that scores against the wrong clips."""
        shadow = self._staged if self._shadowing else None
        return self._client(self._live, shadow=shadow, hears_other_clips=hear_other_clips)

    def stage(self, candidate: VersionedModel, probe_set: RewardRequest) -> ProbeReport:
        """Load a candidate into every shard and let it score the probe set, while the live model goes on scoring.

        Raises:
            RewardError: the candidate has a fault, or there is no room for it; no shard keeps it.
            ActorLostError: a shard did not answer in time; likewise.
        """
        self.discard()
        if candidate.version == self._live.version:
            raise RewardError(f"reward model {candidate.version} is live already")
        staged = ServedModel.put(candidate, [self._live, *([self._previous] if self._previous else [])])
        try:
            self._load(staged, self.roster.shards, self._config.timeout_s)
            report = self._probe(staged, probe_set)
        except (RlcapError, ValueError) as error:
            self._forget(staged)
            if isinstance(error, ActorLostError):
                raise
            raise self._refusal(candidate.version, str(error)) from error
        if report.faults:
            self._forget(staged)
            raise self._refusal(candidate.version, "; ".join(report.faults))
        self._staged = staged
        return report

    def shadow(self) -> None:
        """Let the staged candidate score all traffic from the next client on. Raises RewardError without one."""
        self._require_staged()
        self._shadowing = True

    def shadow_report(self) -> ShadowReport | None:
        """What the shadow made of the traffic; None where there is no shadow."""
        if self._staged is None or not self._shadowing:
            return None
        version = self._staged.version
        parts: list[ShadowScores] = self._ask(
            [shard.shadow_scores(version) for shard in self.roster.shards], "give its shadow scores"
        )
        used, shadow = (np.concatenate([getattr(part, name) for part in parts]) for name in ("used", "shadow"))
        return ShadowReport(
            version,
            num_captions=len(used),
            num_skipped=sum(part.num_skipped for part in parts),
            rank_agreement=rank_agreement(used, shadow),
            faults=tuple(dict.fromkeys(fault for part in parts for fault in part.faults)),
        )

    def commit(self) -> None:
        """Make the staged candidate live: clients made from now on score by it. Raises RewardError without one."""
        self._make_live(self._require_staged())

    def rollback(self) -> None:
        """Make the model live that was live before the last commit or rollback. Raises RewardError without one."""
        if self._previous is None:
            raise RewardError(f"there is nothing to roll back to: {self._live.version} has been live from the start")
        self._make_live(self._previous)

    def discard(self) -> None:
        """Let go of the staged candidate, where there is one."""
        if self._staged is not None:
            self._forget(self._staged)
        self._staged, self._shadowing = None, False

    def add_shard(self) -> str:
        """Start one more owner; only the clips that it owns from now on move. Returns its name.

        Raises:
            RewardError: the cluster has nothing free to start it on.
            ActorLostError: it did not start in time.
        """
        self._require_resources()
        shard = self._start_shard()
        self._load(self._live, [shard], self._cluster.start_timeout_s)
        self.roster = self.roster.with_owner(shard)
        return shard.name

    def add_replica(self, owner: str) -> str:
        """Start one more process for an owner's clips. Returns its name.

        Raises:
            RewardError: there is no such owner, or the cluster has nothing free to start it on.
            ActorLostError: it did not start in time.
        """
        self._require_owner(owner)
        self._require_resources()
        shard = self._start_shard()
        self._load(self._live, [shard], self._cluster.start_timeout_s)
        self.roster = self.roster.with_replica(owner, shard)
        return shard.name

    def remove_shard(self, owner: str) -> None:
        """End an owner and its replicas; only their clips move. Clients who ask them still turn to the others.

        Raises RewardError for an unknown owner, or the last one.
        """
        self._require_owner(owner)
        if len(self.roster.owners) == 1:
            raise RewardError(f"{owner} is the only shard there is: add another one first")
        leaving = self.roster.owners[owner]
        self.roster = self.roster.without_owner(owner)
        for shard in leaving:
            shard.stop()

    def statistics(self) -> list[ShardStatistics]:
        """What each shard that answers at once is and has done; one that hangs is replaced by a new process."""
        watched = [(shard, shard.statistics()) for shard in self.roster.shards]
        timeout_s = self._config.shard_timeout_s
        done, _ = ray.wait([ref for _, ref in watched], num_returns=len(watched), timeout=timeout_s)
        found = []
        for shard, reference in watched:
            statistics = self._answer_of(reference) if reference in done else None
            if statistics is not None and statistics.load.oldest_open_s <= 2 * timeout_s:
                found.append(statistics)
            elif statistics is not None or (reference not in done and not self._is_starting(shard)):
                self._replace(shard)
        return found

    def stop(self) -> None:
        """End the shards' processes."""
        for shard in self.roster.shards:
            shard.stop()

    def _answer_of(self, reference: ObjectRef[ShardStatistics]) -> ShardStatistics | None:
        try:
            found: ShardStatistics = ray.get(reference)
        except ray.exceptions.RayError:
            return None  # Ray is starting it again
        return found

    def _replace(self, shard: ShardHandle) -> None:
        log.warning("%s has not answered for %.0f s; it is replaced", shard.name, self._config.shard_timeout_s)
        self.num_replaced += 1
        self._replaced_at[shard.name] = time.monotonic()
        shard.restart()

    def _is_starting(self, shard: ShardHandle) -> bool:
        """Tell a new process that is on its way from one that hangs: to kill it again would keep it away for good."""
        return time.monotonic() < self._replaced_at.get(shard.name, -math.inf) + self._cluster.start_timeout_s

    def _start_shard(self) -> ShardHandle:
        name = f"shard-{self._num_started}"
        self._num_started += 1
        return start_shard(name, self._config, self._cluster)

    def _client(
        self, model: ServedModel, *, shadow: ServedModel | None = None, hears_other_clips: bool = False
    ) -> ShardedRewardClient:
        patience = Patience(self._config.timeout_s, self._config.shard_timeout_s)
        return ShardedRewardClient(self.roster, model, patience, shadow=shadow, hears_other_clips=hears_other_clips)

    def _probe(self, staged: ServedModel, probe_set: RewardRequest) -> ProbeReport:
        live, candidate = (_score_gently(self._client(model), probe_set) for model in (self._live, staged))
        return judge_candidate(
            (self.version, staged.version),
            np.concatenate([batch.scores for batch in live]),
            np.concatenate([batch.scores for batch in candidate]),
            list(dict.fromkeys(reason for batch in candidate for reason in batch.failure_reasons)),
            self._config.probe,
        )

    def _make_live(self, served: ServedModel) -> None:
        self._previous, self._live = self._live, served
        self._staged, self._shadowing = None, False

    def _refusal(self, version: str, why: str) -> RewardError:
        return RewardError(f"reward model {version} was refused and {self._live.version} stays live: {why}")

    def _require_staged(self) -> ServedModel:
        if self._staged is None:
            raise RewardError("no reward model is staged: stage a candidate first")
        return self._staged

    def _require_owner(self, name: str) -> None:
        if name not in self.roster.owners:
            raise RewardError(f"there is no shard {name!r}; there are {', '.join(self.roster.owners)}")

    def _require_resources(self) -> None:
        free = ray.available_resources()
        for name, wanted in (("CPU", self._cluster.shard_cpus), ("GPU", self._cluster.shard_gpus)):
            if wanted > free.get(name, 0.0):
                raise RewardError(
                    f"one more shard needs {wanted:g} {name} (cluster.shard_{name.lower()}s), and Ray has "
                    f"{free.get(name, 0.0):g} free: add machines, or remove a shard first"
                )

    def _forget(self, served: ServedModel) -> None:
        # Not waited for: a candidate that stays behind is never used, and makes room for the next one.
        for shard in self.roster.shards:
            shard.discard(served.version)

    def _load(self, served: ServedModel, shards: Sequence[ShardHandle], timeout_s: float) -> None:
        self._ask([shard.stage(served, self._live.version) for shard in shards], "load the reward model", timeout_s)

    def _ask(self, references: Sequence[ObjectRef[Answer]], what: str, timeout_s: float | None = None) -> list[Answer]:
        """Wait for answers. Raises ActorLostError where one does not come in time, or what a shard raised."""
        timeout_s = self._config.timeout_s if timeout_s is None else timeout_s
        try:
            answers: list[Answer] = ray.get(list(references), timeout=timeout_s)
        except ray.exceptions.GetTimeoutError as error:
            raise ActorLostError(f"a shard of the reward server did not {what} within {timeout_s:g} s") from error
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, RlcapError) else error) from error
        except ray.exceptions.RayActorError as error:
            raise ActorLostError(f"a shard of the reward server was lost when asked to {what}: {error}") from error
        return answers


def _score_gently(client: ShardedRewardClient, request: RewardRequest) -> list[RewardBatch]:
    """Score clip by clip, with pauses: traffic waits for no more than one clip, and keeps its pace."""
    batches = []
    for number, clip in enumerate(request.clips):
        rows = np.flatnonzero(request.clip_index == number)
        captions = tuple(request.captions[row] for row in rows)
        begun = time.monotonic()
        batches.append(client.score(RewardRequest((clip,), captions, np.zeros(len(rows), dtype=np.int64))))
        time.sleep(PAUSES * (time.monotonic() - begun))
    return batches
