"""What a simulated run is given, and the rate that these speeds allow where nothing else takes time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rlcap.config.run import RunConfig
from rlcap.config.section import must_be_positive, must_not_be_negative
from rlcap.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Speeds:
    """How long each part sleeps, and how much it sends."""

    actor_s: float
    """One batch in an actor, the wait for its scores apart."""
    reward_s: float
    """The captions of one batch, by one shard."""
    learner_s: float
    """One update."""
    jitter: float = 0.0
    """A batch takes an actor up to this share longer or shorter; its mean stays."""
    num_slow: int = 0
    """Actors that are slower than the others."""
    slow_factor: float = 3.0
    """How many times as long as the others they take."""
    rollouts_mb: float = 0.25
    """Rollouts of one batch, in the object store."""
    weights_mb: float = 4.0
    """Weights that every update sends to the actors."""

    def check(self, num_actors: int) -> None:
        """Raise ConfigError that names every value that cannot be."""
        faults = list(self._faults(num_actors))
        if faults:
            raise ConfigError("; ".join(faults))

    def factor(self, actor: int) -> float:
        """How many times as long as most an actor takes; the slow ones come first."""
        return self.slow_factor if actor < self.num_slow else 1.0

    def sampling_s(self, actor: int, seed: int) -> float:
        """How long a batch takes an actor; its seed decides, so the same batch takes every actor as long."""
        spread = np.random.default_rng(seed).uniform(-self.jitter, self.jitter)
        return self.actor_s * self.factor(actor) * (1.0 + float(spread))

    def _faults(self, num_actors: int) -> Iterator[str]:
        yield from must_be_positive(**{"--actor-seconds": self.actor_s, "--slow-factor": self.slow_factor})
        yield from must_not_be_negative(
            **{
                "--reward-seconds": self.reward_s,
                "--learner-seconds": self.learner_s,
                "--rollouts-mb": self.rollouts_mb,
                "--weights-mb": self.weights_mb,
            }
        )
        if not 0 <= self.jitter < 1:
            yield f"--jitter must lie in [0, 1), got {self.jitter}"
        if not 0 <= self.num_slow <= num_actors:
            yield f"--slow-actors must lie in [0, {num_actors}], the number of actors, got {self.num_slow}"


@dataclass(frozen=True, slots=True)
class Shape:
    """How many processes a run has, and how its work is cut."""

    num_actors: int
    num_shards: int
    batches_per_update: int
    clips_per_batch: int
    """In one batch of an actor."""
    samples_per_clip: int
    max_staleness: int

    @classmethod
    def of(cls, config: RunConfig) -> Shape:
        """The shape of a run with these settings."""
        training = config.training
        return cls(
            num_actors=config.cluster.num_actors,
            num_shards=config.reward.num_shards,
            batches_per_update=training.batches_per_update,
            clips_per_batch=training.clips_per_batch // training.batches_per_update,
            samples_per_clip=training.samples_per_clip,
            max_staleness=config.cluster.max_staleness,
        )

    @property
    def captions_per_batch(self) -> int:
        """Captions in one batch of an actor."""
        return self.clips_per_batch * self.samples_per_clip


@dataclass(frozen=True, slots=True)
class IdealRate:
    """What the given speeds allow: queues, calls and copies take no time, and clips spread evenly over the shards."""

    captions_per_s: float
    limit: str
    """The part that is slowest: `actors`, `shards` or `learner`; `in turns` where actors and learner wait for each
    other."""
    actors_alone: float
    shards_alone: float
    learner_alone: float
    """Captions per second of each part if the others were never waited for."""


def ideal_rate(speeds: Speeds, shape: Shape) -> IdealRate:
    """Work out what is possible: overlapped the slowest part decides, in synchronous mode actors and learner add up."""
    per_batch = shape.captions_per_batch
    per_update = per_batch * shape.batches_per_update
    scoring_s = speeds.reward_s / min(shape.num_shards, shape.clips_per_batch)
    batch_s = [speeds.actor_s * speeds.factor(actor) + scoring_s for actor in range(shape.num_actors)]
    alone = {
        "actors": per_batch * sum(1 / duration_s for duration_s in batch_s),
        "shards": per_batch * shape.num_shards / speeds.reward_s if speeds.reward_s else float("inf"),
        "learner": per_update / speeds.learner_s if speeds.learner_s else float("inf"),
    }
    limit = min(alone, key=lambda part: alone[part])
    rate = alone[limit]
    if shape.max_staleness == 0:
        sampling_s = max(_makespan_s(shape.batches_per_update, batch_s), per_update / alone["shards"])
        limit, rate = "in turns", per_update / (sampling_s + speeds.learner_s)
    return IdealRate(rate, limit, alone["actors"], alone["shards"], alone["learner"])


def _makespan_s(num_batches: int, batch_s: list[float]) -> float:
    """How long actors take for batches where each takes the next one as soon as it is free."""
    free_at = [(duration_s, actor) for actor, duration_s in enumerate(batch_s)]
    heapq.heapify(free_at)
    last = 0.0
    for _ in range(num_batches):
        done, actor = heapq.heappop(free_at)
        last = max(last, done)
        heapq.heappush(free_at, (done + batch_s[actor], actor))
    return last
