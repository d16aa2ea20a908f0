"""Ray for the length of a job: a local one that is taken down again, or a cluster that is left as it was."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

import psutil
import ray
import torch

from rlcap.algorithm.ray_places import choose_ray_folder, token_without_home
from rlcap.config.cluster import ClusterConfig
from rlcap.errors import ActorLostError, RunError, in_one_line
from rlcap.planning.memory import weight_versions
from rlcap.planning.placement import Node
from rlcap.planning.plan import OBJECT_STORE_SHARE
from rlcap.planning.processes import ProcessGroup, process_groups, shortages
from rlcap.standard_streams import write_error
from rlcap.stop_signals import deaf_to_hangup, stop_signals

log = logging.getLogger(__name__)

ADVICE = b"constructor arguments in the object store"
"""Ray warns of this for every actor that may restart; their arguments are held here as long as they live."""
OBJECT_STORE_BYTES = 512 * 1024**2
"""Enough for the rollouts and the models of one machine that are in flight; a cluster brings its own store."""
SHARED_MEMORY = Path("/dev/shm")
ANSWER_TIMEOUT_S = 10.0
"""Longest wait for a cluster to take a connection; Ray itself tries for a quarter of an hour where nobody answers."""
NO_MARKS = ("CPU", "GPU", "memory", "object_store_memory")
"""Resources that every node may have; others, such as `actor_node`, mark nodes."""


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
            write_error(b"".join(line for line in held if ADVICE not in line))


def object_store_room(captioner: Path, cluster: ClusterConfig) -> int:
    """Return a size in which all versions of a captioner's weights have room that a run holds at once.

    Where there is none Ray writes them to disk, and a version takes several times as long.
    """
    weights = sum(file.stat().st_size for file in captioner.rglob("*.safetensors"))
    room = int(OBJECT_STORE_SHARE * psutil.virtual_memory().available)
    if SHARED_MEMORY.is_dir():
        room = min(room, shutil.disk_usage(SHARED_MEMORY).free)
    return max(OBJECT_STORE_BYTES, min(OBJECT_STORE_BYTES + weight_versions(cluster) * weights, room))


@contextmanager
def ray_session(
    cluster: ClusterConfig, num_shards: int, *, object_store_bytes: int = OBJECT_STORE_BYTES
) -> Iterator[None]:
    """Connect to `cluster.ray_address`, or start Ray here with room for all processes of a run.

    Raises:
        RunError: Ray does not start, none answers, or it is too small.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own default from its next release
    with nullcontext() if cluster.ray_address else token_without_home():
        try:
            with interrupts_held():
                _start(cluster, num_shards, object_store_bytes)
            yield
        finally:
            ray.shutdown()


def check_ray(cluster: ClusterConfig, num_shards: int) -> None:
    """Refuse a run for which Ray will not start, as far as that shows before it is needed.

    Raises:
        RunError: there is no place for its files here; or the cluster does not answer, or is too small.
    """
    groups = process_groups(cluster, num_shards)
    if not cluster.ray_address:
        choose_ray_folder()
        _refuse_shortages(shortages(groups, math.inf, torch.cuda.device_count()), cluster)
        return
    try:
        _connect(cluster.ray_address)
        _require_room(groups, cluster)
    finally:
        ray.shutdown()


@contextmanager
def cluster_may_be_lost() -> Iterator[None]:
    """Say in a sentence that Ray itself was lost, so that whoever supervises the run starts it again.

    Raises:
        ActorLostError: in place of Ray's errors, those that a task of ours raised excepted.
    """
    try:
        yield
    except ray.exceptions.RayTaskError:
        raise
    except (ray.exceptions.RayError, ConnectionError) as error:
        log.exception("Ray was lost")
        raise ActorLostError(
            f"the Ray cluster was lost ({type(error).__name__}: {in_one_line(error)}); go on with "
            "`rlcap train resume=true`"
        ) from error


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let requests to stop wait until the end of the block, since half of Ray could not be taken down.

    A second Ctrl-C does not wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        if held and number == signal.SIGINT:
            raise KeyboardInterrupt
        held.append(number)

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, *stop_signals())}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


def running_nodes(address: str, gpu_bytes: int) -> list[Node]:
    """Return the machines of a running cluster; the memory of their GPUs, which Ray does not know, is given.

    Raises:
        RunError: there is no cluster at that address.
    """
    _connect(address)
    try:
        nodes = [(node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()
    return [
        Node(
            resources.get("CPU", 0.0),
            int(resources.get("memory", 0)),
            int(resources.get("GPU", 0)),
            gpu_bytes,
            marks=frozenset(resources) - {*NO_MARKS},
            address=node_address,
        )
        for node_address, resources in nodes
    ]


def _connect(address: str) -> None:
    """Connect to a running cluster. Raises RunError where none answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_TIMEOUT_S).close()
        ray.init(address=address, logging_level=logging.ERROR)
    except OSError as error:  # Ray's ConnectionError is one
        raise RunError(f"no Ray cluster answers at cluster.ray_address={address}: {in_one_line(error)}") from error


def _start(cluster: ClusterConfig, num_shards: int, object_store_bytes: int) -> None:
    groups = process_groups(cluster, num_shards)
    if cluster.ray_address:
        _connect(cluster.ray_address)
    else:
        _start_here(sum(group.count * group.cpus for group in groups), object_store_bytes)
    _require_room(groups, cluster)


def _start_here(num_cpus: float, object_store_bytes: int) -> None:
    folder = choose_ray_folder()
    try:
        with deaf_to_hangup():
            ray.init(
                address="local",  # not a cluster that happens to run here, or that RAY_ADDRESS names
                num_cpus=max(os.cpu_count() or 1, math.ceil(num_cpus)),
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                object_store_memory=object_store_bytes,
                _temp_dir=str(folder),
            )
    except Exception as error:  # where its node does not start in time, Ray raises a bare one
        raise RunError(f"Ray does not start here ({in_one_line(error)}): its logs lie in {folder}") from error


def _require_room(groups: Sequence[ProcessGroup], cluster: ClusterConfig) -> None:
    """Raise RunError where Ray could never start all processes: it would wait for machines without a word."""
    total = ray.cluster_resources()
    _refuse_shortages(shortages(groups, total.get("CPU", 0.0), total.get("GPU", 0.0)), cluster)


def _refuse_shortages(missing: Sequence[str], cluster: ClusterConfig) -> None:
    if missing and not cluster.autoscaling:
        raise RunError(
            f"{'; '.join(missing)}. Where machines join as they are asked for, set cluster.autoscaling=true; `rlcap "
            "plan` places a run on paper"
        )
    for shortage in missing:
        log.warning("machines must join before the run can start: %s", shortage)
