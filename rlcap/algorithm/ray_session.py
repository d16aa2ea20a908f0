"""Ray for the length of a job: a local one that is taken down again, or a cluster that is left as it was."""

from __future__ import annotations

import logging
import math
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import ray

from rlcap.config.cluster import ClusterConfig

ADVICE = b"constructor arguments in the object store"
"""Ray warns of this for every actor that may restart; their arguments are held here as long as they live."""
OBJECT_STORE_BYTES = 512 * 1024**2
"""Enough for the rollouts and weights in flight on one machine; a cluster brings its own."""


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep Ray's native `ADVICE` off the terminal; whatever else was written to standard error follows at the end."""
    shown = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            held.seek(0)
            os.write(2, b"".join(line for line in held if ADVICE not in line))


@contextmanager
def ray_session(
    cluster: ClusterConfig, num_shards: int, *, object_store_bytes: int = OBJECT_STORE_BYTES
) -> Iterator[None]:
    """Connect to `cluster.ray_address`, or start Ray here with room for all processes of a run."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own default from its next release
    try:
        with interrupts_held():
            _start(cluster, num_shards, object_store_bytes)
        yield
    finally:
        ray.shutdown()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the block, since half of Ray could not be taken down; a second one does not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        if held:
            raise KeyboardInterrupt
        held.append(number)

    before = signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        signal.raise_signal(signal.SIGINT)


def _start(cluster: ClusterConfig, num_shards: int, object_store_bytes: int) -> None:
    if cluster.ray_address:
        ray.init(address=cluster.ray_address, logging_level=logging.ERROR)
    else:
        num_cpus = (
            cluster.num_actors * cluster.actor_cpus
            + num_shards * cluster.shard_cpus
            + max(1, cluster.num_learners) * cluster.learner_cpus
        )
        ray.init(
            address="local",  # without it, Ray would join a cluster that somebody else has started on this machine
            num_cpus=max(os.cpu_count() or 1, math.ceil(num_cpus)),
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            object_store_memory=object_store_bytes,
        )
