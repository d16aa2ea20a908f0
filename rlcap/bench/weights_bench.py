"""How fast new weights reach the actors of a node, beside a plain copy of memory, in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil
import ray
import torch
from torch import nn

from rlcap.algorithm.ray_session import ray_session
from rlcap.bench.hardware import Hardware, describe_hardware
from rlcap.captioners.weights import FlatWeights, load_into, publish
from rlcap.config.cluster import ClusterConfig
from rlcap.config.precision import Precision
from rlcap.errors import ConfigError
from rlcap.pipeline.progress import progress_bar

FLOAT32, BFLOAT16, ADAPTERS = "float32", "bfloat16", "adapters"
VARIANTS = (FLOAT32, BFLOAT16, ADAPTERS)
NUM_WARM_UPS = 8
"""Versions that are not timed. Each lies in another place of shared memory at first, and an actor maps a place page by
page when it first reads there; behind these it has mapped all places, as in a run after some updates."""
ADAPTER_SHARE = 0.01
"""Of the weights, where only adapters are trained and sent."""
TENSOR_BYTES = 4 * 1024**2
"""Of one float32 tensor: a square matrix of width 1024."""
MEGABYTE = 10**6


@dataclass(frozen=True, slots=True)
class WeightsSpeed:
    """One setting of the sweep; medians of the rounds."""

    variant: str
    megabytes: float
    """What is sent: in bfloat16 half of the weights, of adapters their own size."""
    num_actors: int
    publish_ms: float
    """From the module to flat buffers, those of the version before."""
    put_ms: float
    """From there to shared memory."""
    load_ms: float
    """From the first request until every actor has the weights in its module."""
    total_ms: float
    delivered_gb_per_s: float
    """Bytes that arrived in modules, of all actors together, over the total time."""
    copy_gb_per_s: float
    """Of plain copies of such buffers by all cores at once."""
    copy_gb_per_s_one_core: float
    share_of_memory_bandwidth: float
    """Delivered over copied by all cores; adapters are too small for it to say anything."""


@dataclass(frozen=True, slots=True)
class WeightsBench:
    """All figures."""

    hardware: Hardware
    num_rounds: int
    speeds: tuple[WeightsSpeed, ...]

    def as_json(self) -> dict[str, object]:
        """Plain values; `share_of_memory_bandwidth` is that of float32 weights in the first setting."""
        return {**asdict(self), "share_of_memory_bandwidth": self.speeds[0].share_of_memory_bandwidth}


def bench_weights(megabytes: Sequence[float], actor_counts: Sequence[int], num_rounds: int) -> WeightsBench:
    """Send weights of every size to every number of actors on this node.

    Raises:
        ConfigError: a size or a number is not positive, or there is too little memory for it.
    """
    _check(megabytes, actor_counts, num_rounds)
    settings = [(variant, size, count) for size in megabytes for count in actor_counts for variant in VARIANTS]
    cluster = ClusterConfig(num_actors=max(actor_counts), actor_cpus=1.0)
    # Two versions lie in shared memory while actors move from the one to the other.
    store_bytes = int(2.5 * max(megabytes) * MEGABYTE) + 100 * MEGABYTE
    speeds = []
    with (
        ray_session(cluster, 0, object_store_bytes=store_bytes),
        progress_bar("weights, memory copy", len(settings)) as advance,
    ):
        for setting in settings:
            speeds.append(_measure(*setting, num_rounds))
            advance(f"{speeds[-1].variant}: {speeds[-1].total_ms:.0f} ms")
    return WeightsBench(describe_hardware(), num_rounds, tuple(speeds))


def _check(megabytes: Sequence[float], actor_counts: Sequence[int], num_rounds: int) -> None:
    if min(*megabytes, *actor_counts, num_rounds) <= 0:
        raise ConfigError(
            f"--megabytes, --actors and --rounds must be above 0, got {list(megabytes)}, {list(actor_counts)} and "
            f"{num_rounds}"
        )
    # In the driver module, flat buffers and a plain copy, in shared memory two versions, and a module in every actor.
    needed = (max(actor_counts) + 6) * max(megabytes) * MEGABYTE
    free = psutil.virtual_memory().available
    if needed > free:
        raise ConfigError(
            f"{max(megabytes):.0f} MB to {max(actor_counts)} actors take {needed / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free: give a smaller --megabytes or fewer --actors"
        )


class BenchWeights(nn.Module):
    """Matrices of a given size in all, with or without adapters beside them; not made to compute anything."""

    def __init__(self, variant: str, megabytes: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        num_tensors = max(1, round(megabytes * MEGABYTE / TENSOR_BYTES))
        side = round((megabytes * MEGABYTE / num_tensors / 4) ** 0.5)
        frozen = variant == ADAPTERS
        self.matrices = nn.ParameterList(
            nn.Parameter(torch.zeros(side, side, dtype=dtype), requires_grad=not frozen) for _ in range(num_tensors)
        )
        rank = max(1, round(ADAPTER_SHARE * side)) if frozen else 0
        self.adapters = nn.ParameterList(
            nn.Parameter(torch.zeros(side, rank)) for _ in range(num_tensors if frozen else 0)
        )

    @torch.no_grad()
    def mark(self, number: int) -> None:
        """Change what is trained, as an update would."""
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.fill_(number)

    def marks(self) -> set[float]:
        """What the trained tensors hold, looked up at both ends of each."""
        trained = [parameter.detach().reshape(-1) for parameter in self.parameters() if parameter.requires_grad]
        return {float(value) for tensor in trained for value in (tensor[0], tensor[-1])}


class _Receiver:
    """What an actor does with new weights."""

    def __init__(self, variant: str, megabytes: float) -> None:
        torch.set_num_threads(1)
        # With weights that travel in bfloat16 goes an actor that samples in it: `sampling.precision`.
        self._module = BenchWeights(variant, megabytes, torch.bfloat16 if variant == BFLOAT16 else torch.float32)

    def load(self, weights: FlatWeights) -> set[float]:
        """Take them over, and say what they hold."""
        load_into(self._module, weights)
        return self._module.marks()


class _Sender:
    """What learner and driver do with new weights; like them it holds one version until the next is there."""

    def __init__(self, variant: str, megabytes: float) -> None:
        self._module = BenchWeights(variant, megabytes)
        self._precision = Precision.bfloat16 if variant == BFLOAT16 else Precision.float32
        self._published: FlatWeights | None = None
        self._reference: ray.ObjectRef | None = None

    def send(self, actors: Sequence[Any], number: int) -> tuple[int, tuple[float, float, float]]:
        """Send a version to all actors; return its size, and the seconds of each step."""
        self._module.mark(number)
        begun = time.perf_counter()
        weights = publish(self._module, trainable_only=True, precision=self._precision, into=self._published)
        published = time.perf_counter()
        self._published, self._reference = weights, ray.put(weights)
        put = time.perf_counter()
        marks = ray.get([actor.load.remote(self._reference) for actor in actors])
        loaded = time.perf_counter()
        assert all(seen == {float(number)} for seen in marks), f"actors hold {marks} after version {number} was sent"
        return weights.num_bytes, (published - begun, put - published, loaded - put)


def _measure(variant: str, megabytes: float, num_actors: int, num_rounds: int) -> WeightsSpeed:
    receiver: Any = ray.remote(num_cpus=1)(_Receiver)
    actors = [receiver.remote(variant, megabytes) for _ in range(num_actors)]
    sender = _Sender(variant, megabytes)
    copies = _PlainCopies(int(megabytes * MEGABYTE / (2 if variant == BFLOAT16 else 1)))
    rounds = []
    num_bytes = 0
    try:
        for number in range(1, NUM_WARM_UPS + num_rounds + 1):
            num_bytes, times = sender.send(actors, number)
            found = (*times, copies.bytes_per_s_one_core(), copies.bytes_per_s())
            if number > NUM_WARM_UPS:
                rounds.append(found)
    finally:
        for actor in actors:
            ray.kill(actor)
    publish_s, put_s, load_s, one_core, all_cores = np.array(rounds).T
    total_s = publish_s + put_s + load_s
    delivered = num_actors * num_bytes / total_s
    return WeightsSpeed(
        variant=variant,
        megabytes=num_bytes / MEGABYTE,
        num_actors=num_actors,
        publish_ms=1000 * float(np.median(publish_s)),
        put_ms=1000 * float(np.median(put_s)),
        load_ms=1000 * float(np.median(load_s)),
        total_ms=1000 * float(np.median(total_s)),
        delivered_gb_per_s=float(np.median(delivered)) / 1e9,
        copy_gb_per_s=float(np.median(all_cores)) / 1e9,
        copy_gb_per_s_one_core=float(np.median(one_core)) / 1e9,
        share_of_memory_bandwidth=float(np.median(delivered / all_cores)),
    )


class _PlainCopies:
    """Copies from one buffer to another, both of them touched before."""

    def __init__(self, num_bytes: int) -> None:
        self._source, self._target = np.ones(num_bytes, np.uint8), np.zeros(num_bytes, np.uint8)

    def bytes_per_s_one_core(self) -> float:
        """One thread copies all."""
        begun = time.perf_counter()
        np.copyto(self._target, self._source)
        return len(self._source) / (time.perf_counter() - begun)

    def bytes_per_s(self) -> float:
        """As many threads as there are cores each copy a part."""
        num_threads = describe_hardware().num_cores
        parts = list(
            zip(np.array_split(self._target, num_threads), np.array_split(self._source, num_threads), strict=True)
        )
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(len, parts))  # the threads are there
            begun = time.perf_counter()
            list(pool.map(lambda part: np.copyto(*part), parts))
            return len(self._source) / (time.perf_counter() - begun)
