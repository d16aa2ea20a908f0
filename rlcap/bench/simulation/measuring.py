"""One measurement of a simulated run: what was reached, and what every part did with its time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import psutil
import ray
from ray.actor import ActorHandle

from reward_server.group import RewardServer
from rlcap.bench.simulation.limits import Usage, name_bottleneck
from rlcap.bench.simulation.sleeping_actor import Doing
from rlcap.bench.simulation.sleeping_learner import SimulatedPPO
from rlcap.bench.simulation.speeds import IdealRate, Shape, Speeds

Actors: TypeAlias = Mapping[int, ActorHandle]


@dataclass(frozen=True, slots=True)
class SimulatedRate:
    """One size of cluster."""

    num_actors: int
    num_shards: int
    num_learners: int
    batches_per_update: int
    max_staleness: int
    num_updates: int
    """That were measured."""
    captions_per_s: float
    ideal_captions_per_s: float
    share_of_ideal: float
    ideal_limit: str
    """The part that bounds the ideal rate."""
    mean_staleness: float
    driver_ms_per_batch: float
    """CPU time of the driver."""
    usage: Usage
    bottleneck: str
    advice: str
    """What to change."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Sums over the time measured."""

    duration_s: float
    num_updates: int
    num_captions: int
    num_batches: int
    total_staleness: int
    waited_s: float
    """The learner, for rollouts."""
    driver_s: float
    machine: float
    """Share of all CPUs."""
    num_scored: int
    """Captions that the shards scored."""
    actors_s: dict[Doing, float]
    """What the actors did."""


def measure(
    algorithm: SimulatedPPO, actors: Actors, server: RewardServer, *, num_warm_up: int, duration_s: float
) -> Measured:
    """Train for a while, the first updates not counted."""
    for _ in range(num_warm_up):
        algorithm.train()
    spent, scored = _spent_s(actors), _num_scored(server)
    psutil.cpu_percent()
    start, cpu = time.monotonic(), time.process_time()
    reports = []
    while time.monotonic() - start < duration_s:
        algorithm.train()
        reports.append(algorithm.last_report)
    passed = time.monotonic() - start
    spent_after, scored_after = _spent_s(actors), _num_scored(server)
    infos = [(report.update, batch.info) for report in reports for batch in report.batches]
    return Measured(
        duration_s=passed,
        num_updates=len(reports),
        num_captions=sum(info.num_captions for _, info in infos),
        num_batches=len(infos),
        total_staleness=sum(update - 1 - info.policy_version for update, info in infos),
        waited_s=sum(report.metrics["time/wait_for_rollouts_s"] for report in reports),
        driver_s=time.process_time() - cpu,
        machine=psutil.cpu_percent() / 100,
        num_scored=scored_after - scored,
        actors_s={doing: spent_after[doing] - spent[doing] for doing in Doing},
    )


def usage_of(measured: Measured, speeds: Speeds, shape: Shape) -> Usage:
    """Turn sums into shares."""
    actors_s = sum(measured.actors_s.values())
    scored_s = measured.num_scored * speeds.reward_s / shape.captions_per_batch
    return Usage(
        actors_sampling=measured.actors_s[Doing.sampling] / actors_s,
        actors_scoring=measured.actors_s[Doing.scoring] / actors_s,
        actors_idle=measured.actors_s[Doing.idling] / actors_s,
        shards_idle=max(0.0, 1 - scored_s / (shape.num_shards * measured.duration_s)),
        learner_idle=measured.waited_s / measured.duration_s,
        driver=measured.driver_s / measured.duration_s,
        machine=measured.machine,
    )


def rate_of(measured: Measured, speeds: Speeds, shape: Shape, ideal: IdealRate, num_learners: int) -> SimulatedRate:
    """Sum up one size of cluster."""
    rate = measured.num_captions / measured.duration_s
    usage = usage_of(measured, speeds, shape)
    bottleneck, advice = name_bottleneck(rate / ideal.captions_per_s, usage, ideal)
    return SimulatedRate(
        num_actors=shape.num_actors,
        num_shards=shape.num_shards,
        num_learners=num_learners,
        batches_per_update=shape.batches_per_update,
        max_staleness=shape.max_staleness,
        num_updates=measured.num_updates,
        captions_per_s=rate,
        ideal_captions_per_s=ideal.captions_per_s,
        share_of_ideal=rate / ideal.captions_per_s,
        ideal_limit=ideal.limit,
        mean_staleness=measured.total_staleness / measured.num_batches,
        driver_ms_per_batch=1000 * measured.driver_s / measured.num_batches,
        usage=usage,
        bottleneck=bottleneck,
        advice=advice,
    )


def _spent_s(actors: Actors) -> dict[Doing, float]:
    found: list[dict[Doing, float]] = ray.get([actor.spent_s.remote() for actor in actors.values()])
    return {doing: sum(spent_s[doing] for spent_s in found) for doing in Doing}


def _num_scored(server: RewardServer) -> int:
    return sum(shard.load.num_captions for shard in server.statistics())
