"""The start of caption actors: the run goes on as soon as one is there, and the others join it."""

from __future__ import annotations

import time
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
        ActorLostError: none does in time, or none can be built.
    """
    calls = {actor.ping.remote(): actor_id for actor_id, actor in actors.items()}
    deadline = time.monotonic() + cluster.start_timeout_s
    ready: set[int] = set()
    while not ready:
        first, _ = ray.wait(list(calls), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not first:
            raise _nobody_came(len(actors), cluster)
        actor_id = calls.pop(first[0])
        try:
            ray.get(first)
            ready.add(actor_id)
        except ray.exceptions.ActorDiedError as failure:
            if not calls:
                raise ActorLostError(f"no caption actor could start: {in_one_line(failure)}") from failure
        except ray.exceptions.RayActorError:  # being restarted
            time.sleep(SETTLE_S)
            calls[actors[actor_id].ping.remote()] = actor_id
    more, _ = ray.wait(list(calls), num_returns=len(calls), timeout=SETTLE_S) if calls else ([], [])
    return ready | {calls[call] for call in more if _succeeded(call)}


def _succeeded(call: ray.ObjectRef) -> bool:
    try:
        ray.get(call)
    except ray.exceptions.RayActorError:
        return False
    return True


def _nobody_came(num_actors: int, cluster: ClusterConfig) -> ActorLostError:
    return ActorLostError(
        f"no caption actor started within {cluster.start_timeout_s:.0f} s: each of {num_actors} asks for "
        f"{cluster.actor_cpus:g} CPUs and {cluster.actor_gpus:g} GPUs, and of the cluster's are free: {_count('CPU')}, "
        f"{_count('GPU')}; ask for less, add nodes, or raise cluster.start_timeout_s"
    )


def _count(kind: str) -> str:
    free, there = (resources.get(kind, 0) for resources in (ray.available_resources(), ray.cluster_resources()))
    return f"{free:g} of {there:g} {kind}s"
