"""What the parts of a simulated run did with their time, and what held it up."""

from __future__ import annotations

from dataclasses import dataclass

from rlcap.bench.simulation.speeds import IdealRate

REACHED, BUSY, IDLE = 0.95, 0.9, 0.1
"""Share of the ideal rate above which nothing stands in the way; shares from which on a part is busy, or idle."""
ADVICE = {
    "actors": ("the actors", "raise cluster.num_actors"),
    "shards": ("the reward server", "raise reward.num_shards"),
    "learner": ("the learner", "raise cluster.num_learners, or lower algorithm.num_epochs"),
    "in turns": (
        "actors and learner wait for each other",
        "set cluster.max_staleness=1 or more, so that they work at the same time",
    ),
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Shares of the time measured, over all processes of a kind."""

    actors_sampling: float
    actors_scoring: float
    """Waiting for scores."""
    actors_idle: float
    """Without a request."""
    shards_idle: float
    learner_idle: float
    """Waiting for rollouts."""
    driver: float
    """Time of one CPU that the driver took."""
    machine: float
    """Of all CPUs of this machine."""


def name_bottleneck(share_of_ideal: float, usage: Usage, ideal: IdealRate) -> tuple[str, str]:
    """Say what holds the run up, and which setting to change."""
    if share_of_ideal < REACHED:
        if usage.machine > BUSY:
            return "this machine", (
                "its CPUs are busy, so the figures are not those of a cluster: give slower speeds, which ask for fewer "
                "batches a second"
            )
        if usage.driver > BUSY:
            return "the driver", "more clips in a batch (training.clips_per_batch over training.batches_per_update)"
        if ideal.limit != "in turns" and min(usage.actors_idle, usage.learner_idle) > IDLE:
            return "the bound on staleness", (
                "actors and learner both wait, since actors may not run further ahead: raise cluster.max_staleness, or "
                "training.batches_per_update and training.clips_per_batch with it"
            )
    return ADVICE[ideal.limit]
