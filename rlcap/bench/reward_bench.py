"""How fast the reward server scores, beside the same model called directly, and how long callers wait."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64

from reward_server.group import RewardServer
from reward_server.scoring import ClapReward
from rlcap.algorithm.ray_session import ray_session, without_advice
from rlcap.bench.hardware import Hardware, describe_hardware
from rlcap.bench.reward_load import Answered, Workload, bench_model, latencies_ms, load_from_threads
from rlcap.config.cluster import ClusterConfig
from rlcap.config.reward import RewardConfig
from rlcap.pipeline.progress import progress_bar
from rlcap.threads import limited_threads

NUM_CLIPS = 64
REQUEST_SIZES, SHARD_COUNTS, HIT_RATES = (8, 64, 256), (1, 2), (1.0, 0.5, 0.0)
NUM_ROUNDS = 5
"""Of bare model and server in turns: a machine is not equally fast all the time."""


@dataclass(frozen=True, slots=True)
class ServedSpeed:
    """One setting of the sweep."""

    num_shards: int
    captions_per_request: int
    hit_rate: float
    """Share of the clips whose audio embedding was cached."""
    scores_per_s: float
    captions_per_pass: float
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    num_failed: int


@dataclass(frozen=True, slots=True)
class RewardBench:
    """All figures."""

    hardware: Hardware
    captions_per_pass: int
    """At most."""
    bare_scores_per_s: float
    """The model alone, all audio embedded, called again and again with full passes; median of the rounds."""
    served_scores_per_s: float
    """By one shard with a full queue and all audio cached; median of the rounds."""
    share_of_bare_model: float
    """Median over the rounds of the one over the other."""
    rounds: tuple[tuple[float, float], ...]
    """Bare and served scores per second of each."""
    sweep: tuple[ServedSpeed, ...]

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def bench_reward(reward: RewardConfig, cluster: ClusterConfig, *, round_s: float = 3.0) -> RewardBench:
    """Measure one shard against the bare model, then sweep request sizes, shards and hit rates."""
    merged = replace(reward, deterministic=False)
    model = bench_model(merged)
    with ray_session(cluster, max(SHARD_COUNTS)):
        rounds = _rounds(model, merged, cluster, round_s)
        sweep = _sweep(model, merged, cluster, round_s)
    bare, served = np.array(rounds).T
    return RewardBench(
        describe_hardware(),
        merged.max_batch_size,
        float(np.median(bare)),
        float(np.median(served)),
        float(np.median(served / bare)),
        tuple(rounds),
        tuple(sweep),
    )


@contextmanager
def served(model: ClapReward, config: RewardConfig, cluster: ClusterConfig, num_shards: int) -> Iterator[RewardServer]:
    """A server of this model while the context lasts."""
    with without_advice():
        server = RewardServer(model, replace(config, num_shards=num_shards), cluster)
        server.wait_until_ready()
    try:
        yield server
    finally:
        server.stop()


def _rounds(
    model: ClapReward, config: RewardConfig, cluster: ClusterConfig, round_s: float
) -> list[tuple[float, float]]:
    workload = Workload(64, num_clips=NUM_CLIPS)
    with served(model, config, cluster, 1) as server, progress_bar("one shard, bare model", NUM_ROUNDS) as advance:
        _drive(server, workload, round_s, hit_rate=1.0)  # fills the cache, and warms up
        found = []
        for _ in range(NUM_ROUNDS):
            bare = _bare_speed(model, workload, config.max_batch_size, max(1, int(cluster.shard_cpus)), round_s)
            speed = _drive(server, workload, round_s, hit_rate=1.0).scores_per_s
            found.append((bare, speed))
            advance(f"{speed / bare:.1%} of {bare:.0f} scores/s")
    return found


def _bare_speed(
    model: ClapReward, workload: Workload, captions_per_pass: int, num_threads: int, duration_s: float
) -> float:
    size = captions_per_pass // 64
    requests = [workload.request(number) for number in range(4 * size)]
    audio = model.embed_audio(workload.clips)
    place = {clip.clip_id: row for row, clip in enumerate(workload.clips)}
    passes: list[tuple[list[str], Int64[np.ndarray, " batch"]]] = []
    for group in (requests[start : start + size] for start in range(0, len(requests), size)):
        captions = [caption for request in group for caption in request.captions]
        rows = [place[request.clips[clip].clip_id] for request in group for clip in request.clip_index.tolist()]
        passes.append((captions, np.array(rows, dtype=np.int64)))
    with limited_threads(num_threads), torch.inference_mode():
        start, num_scores = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < duration_s:
            for captions, index in passes:
                num_scores += len(model.score(audio, captions, index))
    return num_scores / passed


def _sweep(model: ClapReward, config: RewardConfig, cluster: ClusterConfig, round_s: float) -> list[ServedSpeed]:
    settings = [(size, 1.0) for size in REQUEST_SIZES] + [(64, hit_rate) for hit_rate in HIT_RATES[1:]]
    found = []
    with progress_bar("sweep", len(SHARD_COUNTS) * len(settings)) as advance:
        for num_shards in SHARD_COUNTS:
            with served(model, config, cluster, num_shards) as server:
                _drive(server, Workload(64, num_clips=NUM_CLIPS), round_s, hit_rate=1.0)
                for size, hit_rate in settings:
                    found.append(_drive(server, Workload(size, num_clips=NUM_CLIPS), round_s, hit_rate=hit_rate))
                    advance(f"{found[-1].scores_per_s:.0f} scores/s")
    return found


def _drive(server: RewardServer, workload: Workload, duration_s: float, *, hit_rate: float) -> ServedSpeed:
    """Keep the queue of every shard full for a while."""
    num_shards = len(server.roster.shards)
    client = server.client()
    size = len(workload.request(0).captions)
    before = [shard.batches for shard in server.statistics()]
    num_threads = max(4, 3 * num_shards * server.max_batch_size // size)
    with load_from_threads(lambda: client, workload.requests(hit_rate), min(num_threads, 32)) as answered:
        time.sleep(duration_s)
        while len(answered) < 2:  # a busy machine may need longer, and a speed lies between two answers
            time.sleep(0.05)
        answered_in_time = [*answered]
    after = [shard.batches for shard in server.statistics()]
    num_captions = sum(shard.total_size for shard in after) - sum(shard.total_size for shard in before)
    num_passes = sum(shard.num_batches for shard in after) - sum(shard.num_batches for shard in before)
    p50, p95, p99 = latencies_ms(answered_in_time).tolist()
    return ServedSpeed(
        num_shards=num_shards,
        captions_per_request=size,
        hit_rate=hit_rate,
        scores_per_s=_scores_per_s(answered_in_time),
        captions_per_pass=num_captions / max(1, num_passes),
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        num_failed=sum(one.num_failed for one in answered_in_time),
    )


def _scores_per_s(answered: Sequence[Answered]) -> float:
    """From the first answer to the last, the first one not counted: the queue was not full before it."""
    ordered = sorted(answered, key=lambda one: one.done_s)
    seconds = ordered[-1].done_s - ordered[0].done_s
    return sum(one.num_captions for one in ordered[1:]) / seconds
