"""One measurement of a simulated run: what was reached, and what every part did with its time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import psutil
import ray
from ray.actor import ActorHandle

from reward_server.group import RewardServer
from rlcap.algorithm.update_report import UpdateReport
from rlcap.bench.simulation.limits import Usage, name_bottleneck
from rlcap.bench.simulation.sleeping_actor import Doing
from rlcap.bench.simulation.sleeping_learner import SimulatedPPO
from rlcap.bench.simulation.speeds import IdealRate, Shape, Speeds
from rlcap.bench.simulation.steady_rate import Making, Training, steady_rate

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
    """That the actors made and the learner could take."""
    trained_captions_per_s: float
    """Updates that ended in the time measured: the same in the long run, and by up to an update more or less in it."""
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

    training: Training
    captions_per_s: float
    num_updates: int
    num_batches: int
    total_staleness: int
    driver_s: float
    machine: float
    """Share of all CPUs."""
    num_scored: int
    """Captions that the shards scored."""
    actors_s: dict[Doing, float]
    """What the actors did."""


def measure(
    algorithm: SimulatedPPO, actors: Actors, server: RewardServer, *, max_staleness: int, duration_s: float
) -> Measured:
    """Train for a while, the first updates not counted, and then until all is trained on that was begun meanwhile."""
    _train(algorithm, 2 + max_staleness)
    spent, scored = _spent_s(actors), _num_scored(server)
    psutil.cpu_percent()
    start, start_s, cpu = time.monotonic(), time.time(), time.process_time()
    reports: list[UpdateReport] = []
    while time.monotonic() - start < duration_s:
        reports += _train(algorithm, 1)
    end_s, driver_s, machine = time.time(), time.process_time() - cpu, psutil.cpu_percent() / 100
    spent_after, scored_after = _spent_s(actors), _num_scored(server)
    infos = [(report.update, batch.info) for report in reports for batch in report.batches]
    num_captions = sum(info.num_captions for _, info in infos)
    waited_s = sum(report.metrics["time/wait_for_rollouts_s"] for report in reports)
    training = Training(start_s, end_s, num_captions, waited_s)
    # What was asked for during the last update is used so much later at most.
    reports_after = _train(algorithm, 1 + max_staleness)
    return Measured(
        training=training,
        captions_per_s=steady_rate(training, _makings([*reports, *reports_after])),
        num_updates=len(reports),
        num_batches=len(infos),
        total_staleness=sum(update - 1 - info.policy_version for update, info in infos),
        driver_s=driver_s,
        machine=machine,
        num_scored=scored_after - scored,
        actors_s={doing: spent_after[doing] - spent[doing] for doing in Doing},
    )


def usage_of(measured: Measured, speeds: Speeds, shape: Shape) -> Usage:
    """Turn sums into shares."""
    actors_s, duration_s = sum(measured.actors_s.values()), measured.training.duration_s
    scored_s = measured.num_scored * speeds.reward_s / shape.captions_per_batch
    return Usage(
        actors_sampling=measured.actors_s[Doing.sampling] / actors_s,
        actors_scoring=measured.actors_s[Doing.scoring] / actors_s,
        actors_idle=measured.actors_s[Doing.idling] / actors_s,
        shards_idle=max(0.0, 1 - scored_s / (shape.num_shards * duration_s)),
        learner_idle=measured.training.waited_s / duration_s,
        driver=measured.driver_s / duration_s,
        machine=measured.machine,
    )


def rate_of(measured: Measured, speeds: Speeds, shape: Shape, ideal: IdealRate, num_learners: int) -> SimulatedRate:
    """Sum up one size of cluster."""
    rate = measured.captions_per_s
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
        trained_captions_per_s=measured.training.num_captions / measured.training.duration_s,
        ideal_captions_per_s=ideal.captions_per_s,
        share_of_ideal=rate / ideal.captions_per_s,
        ideal_limit=ideal.limit,
        mean_staleness=measured.total_staleness / measured.num_batches,
        driver_ms_per_batch=1000 * measured.driver_s / measured.num_batches,
        usage=usage,
        bottleneck=bottleneck,
        advice=advice,
    )


def _train(algorithm: SimulatedPPO, num_updates: int) -> list[UpdateReport]:
    reports = []
    for _ in range(num_updates):
        algorithm.train()
        reports.append(algorithm.last_report)
    return reports


def _makings(reports: Sequence[UpdateReport]) -> Iterator[Making]:
    infos = (batch.info for report in reports for batch in report.batches)
    return (Making(info.began_at_s, info.began_at_s + info.wall_s, info.num_captions) for info in infos)


def _spent_s(actors: Actors) -> dict[Doing, float]:
    found: list[dict[Doing, float]] = ray.get([actor.spent_s.remote() for actor in actors.values()])
    return {doing: sum(spent_s[doing] for spent_s in found) for doing in Doing}


def _num_scored(server: RewardServer) -> int:
    return sum(shard.load.num_captions for shard in server.statistics())
