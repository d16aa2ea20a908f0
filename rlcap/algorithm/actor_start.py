"""The start of caption actors: the run goes on as soon as one is there, and the others join it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray.actor import ActorHandle
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from actors.env_runner import stub_spaces
from rlcap.config.cluster import ClusterConfig
from rlcap.errors import ActorLostError, in_one_line

SETTLE_S = 0.5
"""Actors that start together are all there so soon after the first."""


@contextmanager
def spaces_at_hand() -> Iterator[None]:
    """Keep RLlib from asking its first actor for spaces, which are stubs: it would wait without a limit."""
    asks = EnvRunnerGroup.get_spaces
    EnvRunnerGroup.get_spaces = lambda _: stub_spaces()
    try:
        yield
    finally:
        EnvRunnerGroup.get_spaces = asks


def first_ready(actors: Mapping[int, ActorHandle], cluster: ClusterConfig) -> set[int]:
    """Wait until an actor answers; return all that do by then.

    Raises:
        ActorLostError: none does in time, or one cannot be built.
    """
    calls = {actor.ping.remote(): actor_id for actor_id, actor in actors.items()}
    first, _ = ray.wait(list(calls), num_returns=1, timeout=cluster.start_timeout_s)
    if not first:
        raise ActorLostError(
            f"no caption actor started within {cluster.start_timeout_s:.0f} s: each of {len(actors)} asks for "
            f"{cluster.actor_cpus:g} CPUs and {cluster.actor_gpus:g} GPUs, and the cluster has "
            f"{_count('CPU')} free; ask for less, add nodes, or raise cluster.start_timeout_s"
        )
    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=SETTLE_S)
    try:
        ray.get(done, timeout=SETTLE_S)
    except ray.exceptions.RayActorError as failure:
        raise ActorLostError(f"a caption actor could not start: {in_one_line(failure)}") from failure
    return {calls[call] for call in done}


def _count(kind: str) -> str:
    free, there = (resources.get(kind, 0) for resources in (ray.available_resources(), ray.cluster_resources()))
    return f"{free:g} of {there:g} {kind}s"
