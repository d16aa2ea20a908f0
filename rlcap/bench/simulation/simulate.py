"""`rlcap bench --simulate`: the real pipeline over models that sleep, in one size or several."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import ray

from actors.env_runner import ActorPlan
from reward_server.group import RewardServer
from rlcap.algorithm.ray_session import ray_session, without_advice
from rlcap.algorithm.settings import RunPlan
from rlcap.bench.hardware import Hardware, describe_hardware
from rlcap.bench.simulation.measuring import Actors, SimulatedRate, measure, rate_of
from rlcap.bench.simulation.sleeping_actor import start_sleeping_actors
from rlcap.bench.simulation.sleeping_learner import SimulatedPPO, build_simulated_algorithm
from rlcap.bench.simulation.sleeping_reward import SleepingReward
from rlcap.bench.simulation.speeds import Shape, Speeds, ideal_rate
from rlcap.captioners.prefix_parts import build_prefix_captioner
from rlcap.captioners.tokenizer import build_word_tokenizer
from rlcap.config.captioner import CaptionerConfig
from rlcap.config.cluster import ClusterConfig
from rlcap.config.run import RunConfig
from rlcap.errors import ActorLostError
from rlcap.pipeline.progress import progress_bar
from rlcap.soundscapes.stream import SoundscapeSource


@dataclass(frozen=True, slots=True)
class Simulation:
    """All figures."""

    hardware: Hardware
    speeds: Speeds
    rates: tuple[SimulatedRate, ...]
    """By number of actors; the last one is the size that was asked for."""

    def as_json(self) -> dict[str, object]:
        """Plain values; `share_of_ideal` is that of the size that was asked for."""
        return {**asdict(self), "share_of_ideal": self.rates[-1].share_of_ideal}


def simulate(config: RunConfig, speeds: Speeds, *, actor_counts: Sequence[int], duration_s: float) -> Simulation:
    """Measure, on this machine, the shape that the settings ask for, and smaller ones in which an update shrinks too.

    Raises:
        ConfigError: a speed cannot be.
        ActorLostError: a process did not start in time.
    """
    whole = Shape.of(config)
    speeds.check(whole.num_actors)
    config = replace(config, cluster=_on_this_machine(config.cluster))
    counts = [*sorted({count for count in actor_counts if count < whole.num_actors}), whole.num_actors]
    rates = []
    with _processes(config, speeds, whole) as (actors, server), progress_bar("simulation", len(counts)) as advance:
        for count in counts:
            rates.append(_run(config, speeds, count, actors, server, duration_s))
            advance(f"{count} actors: {rates[-1].share_of_ideal:.1%} of the ideal rate")
    return Simulation(describe_hardware(), speeds, tuple(rates))


def _on_this_machine(cluster: ClusterConfig) -> ClusterConfig:
    """The same processes with a CPU each, of which Ray takes this machine to have enough, and without GPUs."""
    return replace(
        cluster,
        ray_address="",
        actor_cpus=1.0,
        actor_gpus=0.0,
        shard_cpus=1.0,
        shard_gpus=0.0,
        learner_cpus=1.0,
        learner_gpus=0.0,
    )


@contextmanager
def _processes(config: RunConfig, speeds: Speeds, shape: Shape) -> Iterator[tuple[Actors, RewardServer]]:
    """The actors and shards of the largest size, which smaller ones share."""
    cluster = config.cluster
    with ray_session(cluster, config.reward.num_shards):
        with without_advice():
            actors = start_sleeping_actors(speeds, shape)
            server = RewardServer(SleepingReward(speeds.reward_s / shape.captions_per_batch), config.reward, cluster)
            server.wait_until_ready()
            _wait_for(actors, cluster.start_timeout_s)
        try:
            yield actors, server
        finally:
            server.stop()


def _run(
    config: RunConfig, speeds: Speeds, count: int, actors: Actors, server: RewardServer, duration_s: float
) -> SimulatedRate:
    """Measure one size: an update is as much smaller as there are fewer actors, and takes as much less time."""
    share = count / config.cluster.num_actors
    whole = Shape.of(config)
    num_batches = max(1, round(whole.batches_per_update * share))
    shape = replace(whole, num_actors=count, batches_per_update=num_batches)
    smaller = replace(speeds, learner_s=speeds.learner_s * num_batches / whole.batches_per_update)
    chosen = {number: actor for number, actor in actors.items() if number <= count}
    with tempfile.TemporaryDirectory() as folder, _algorithm(config, smaller, shape, chosen, server, folder) as built:
        measured = measure(built, chosen, server, max_staleness=shape.max_staleness, duration_s=duration_s)
    return rate_of(measured, smaller, shape, ideal_rate(smaller, shape), config.cluster.num_learners)


@contextmanager
def _algorithm(
    config: RunConfig, speeds: Speeds, shape: Shape, actors: Actors, server: RewardServer, folder: str
) -> Iterator[SimulatedPPO]:
    baseline = Path(folder) / "captioner"
    captioner = build_prefix_captioner(
        CaptionerConfig(width=16, num_layers=1, num_heads=2, prefix_length=2),
        build_word_tokenizer(["a dog barks"]),
        encoder_channels=(4, 4, 8, 8),
        dropout=0.0,
    )
    captioner.save(baseline)
    training = replace(
        config.training,
        batches_per_update=shape.batches_per_update,
        clips_per_batch=shape.batches_per_update * shape.clips_per_batch,
    )
    actor = ActorPlan(SoundscapeSource(config.seed), baseline, config.sampling, shape.samples_per_clip, num_threads=1)
    plan = RunPlan(actor, server.client(), config.algorithm, training, config.cluster, config.seed)
    with without_advice():
        algorithm = build_simulated_algorithm(plan, speeds, actors)
    try:
        yield algorithm
    finally:
        algorithm.stop()


def _wait_for(actors: Actors, timeout_s: float) -> None:
    calls = {actor.ping.remote(): number for number, actor in actors.items()}
    _, missing = ray.wait(list(calls), num_returns=len(calls), timeout=timeout_s)
    if missing:
        named = ", ".join(str(calls[call]) for call in missing[:5])
        raise ActorLostError(
            f"{len(missing)} of {len(actors)} actors (among them {named}) did not start within {timeout_s:g} s: raise "
            "cluster.start_timeout_s, or simulate fewer"
        )
