"""What a run feels of swaps: throughput while they are staged and committed, and the longest wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from reward_server.group import RewardServer
from reward_server.heads import Head, build_head
from reward_server.scoring import ClapReward
from rlcap.algorithm.ray_session import ray_session
from rlcap.bench.hardware import Hardware, describe_hardware
from rlcap.bench.reward_bench import NUM_CLIPS, served
from rlcap.bench.reward_load import Answered, Workload, bench_model, latencies_ms, load_from_threads
from rlcap.config.cluster import ClusterConfig
from rlcap.config.reward import RewardConfig
from rlcap.errors import RewardError
from rlcap.pipeline.progress import progress_bar
from rlcap.protocols import RewardClient
from rlcap.types import RewardRequest

NUM_SHARDS, NUM_ACTORS = 2, 2
CAPTIONS_PER_REQUEST = 64
BROKEN_EVERY = 4


@dataclass(frozen=True, slots=True)
class SwapBench:
    """All figures."""

    hardware: Hardware
    num_swaps: int
    num_refused: int
    """Broken candidates, all of which must be refused."""
    num_embedded_anew: int
    """Audio tower passes since the cache was warm."""
    num_failed: int
    """Captions without a score."""
    scores_per_s_outside: float
    scores_per_s_in_windows: float
    """From the staging of a candidate to its commit or refusal."""
    share_in_windows: float
    median_window_ms: float
    latency_p50_ms: float
    longest_wait_outside_ms: float
    longest_wait_in_windows_ms: float

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def bench_swap(reward: RewardConfig, cluster: ClusterConfig, *, num_swaps: int = 20, pause_s: float = 1.0) -> SwapBench:
    """Swap heads over one encoder, a quarter of them broken, while two actors keep asking two shards."""
    model = bench_model(reward)
    workload = Workload(CAPTIONS_PER_REQUEST, num_clips=NUM_CLIPS)
    # Made beforehand: it would take time from the callers that are measured.
    candidates = [
        model.with_head(_head(reward, model, seed=number + 1, spoil=number % BROKEN_EVERY == BROKEN_EVERY - 1))
        for number in range(num_swaps)
    ]
    with ray_session(cluster, NUM_SHARDS), served(model, reward, cluster, NUM_SHARDS) as server:
        current: list[RewardClient] = [server.client()]
        with load_from_threads(lambda: current[0], workload.requests(), NUM_ACTORS) as answered:
            time.sleep(3 * pause_s)
            begun, embedded = time.perf_counter(), _num_embedded(server)
            windows, num_refused = _swap(server, current, candidates, workload.request(0), pause_s)
            time.sleep(pause_s)
            ended = time.perf_counter()
        embedded = _num_embedded(server) - embedded
    return _summary(answered, windows, (begun, ended), num_refused, embedded)


def _swap(
    server: RewardServer,
    current: list[RewardClient],
    candidates: Sequence[ClapReward],
    probe_set: RewardRequest,
    pause_s: float,
) -> tuple[list[tuple[float, float]], int]:
    """Stage and commit one candidate after the other; return when each was under way, and how many were refused."""
    windows, num_refused = [], 0
    with progress_bar("swaps under load", len(candidates)) as advance:
        for candidate in candidates:
            time.sleep(pause_s)
            begun = time.perf_counter()
            try:
                server.stage(candidate, probe_set)
                server.commit()
                current[0] = server.client()
            except RewardError:
                num_refused += 1
            windows.append((begun, time.perf_counter()))
            advance(f"{num_refused} refused")
    return windows, num_refused


def _head(reward: RewardConfig, model: ClapReward, *, seed: int, spoil: bool) -> Head:
    head = build_head(reward.head, model.towers.embedding_dim, seed=seed)
    if spoil:
        torch.nn.init.constant_(next(head.parameters()), torch.nan)
    return head


def _num_embedded(server: RewardServer) -> int:
    return sum(shard.num_embedded for shard in server.statistics())


def _summary(
    answered: Sequence[Answered],
    windows: Sequence[tuple[float, float]],
    span: tuple[float, float],
    num_refused: int,
    num_embedded: int,
) -> SwapBench:
    counted = [one for one in answered if span[0] <= one.done_s <= span[1]]
    touched = [one for one in counted if any(one.begun_s < end and one.done_s > start for start, end in windows)]
    untouched = [one for one in counted if one not in touched]
    window_s = sum(end - start for start, end in windows)
    in_windows = sum(_scores_within(one, windows) for one in counted)
    outside = sum(one.num_captions for one in counted) - in_windows
    inside_rate, outside_rate = in_windows / window_s, outside / (span[1] - span[0] - window_s)
    return SwapBench(
        hardware=describe_hardware(),
        num_swaps=len(windows),
        num_refused=num_refused,
        num_embedded_anew=num_embedded,
        num_failed=sum(one.num_failed for one in counted),
        scores_per_s_outside=outside_rate,
        scores_per_s_in_windows=inside_rate,
        share_in_windows=inside_rate / outside_rate,
        median_window_ms=float(np.median([1000 * (end - start) for start, end in windows])),
        latency_p50_ms=float(latencies_ms(untouched)[0]),
        longest_wait_outside_ms=max(1000 * (one.done_s - one.begun_s) for one in untouched),
        longest_wait_in_windows_ms=max(1000 * (one.done_s - one.begun_s) for one in touched),
    )


def _scores_within(one: Answered, windows: Sequence[tuple[float, float]]) -> float:
    """The captions of a request by the share of its time that lies in windows."""
    inside = sum(max(0.0, min(one.done_s, end) - max(one.begun_s, start)) for start, end in windows)
    return one.num_captions * inside / (one.done_s - one.begun_s)
