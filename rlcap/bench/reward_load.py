"""A reward model, clips and captions to load a server with, and threads that keep its queue full."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from reward_server.heads import build_head
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from rlcap.audio.features import LogMelConfig
from rlcap.config.reward import RewardConfig
from rlcap.protocols import RewardClient
from rlcap.soundscapes.grammar import write_caption
from rlcap.soundscapes.lexicon import Lexicon
from rlcap.soundscapes.world import LABELS, scene_of
from rlcap.types import Clip, RewardRequest

SAMPLE_RATE_HZ, CLIP_S = 16_000, 5.0
CAPTIONS_PER_CLIP = 8
NUM_DISTINCT = 64
"""Requests that are made beforehand."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One request that a server answered."""

    begun_s: float
    done_s: float
    num_captions: int
    num_failed: int


class Workload:
    """Requests of one size over a fixed set of clips, drawn from a seed."""

    def __init__(self, num_captions: int, *, num_clips: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        length = int(CLIP_S * SAMPLE_RATE_HZ)
        self._clips = [
            Clip(f"bench-{number}", rng.standard_normal(length).astype(np.float32) / 10, SAMPLE_RATE_HZ)
            for number in range(num_clips)
        ]
        self._captions = bench_captions(1024)
        self._num_captions = num_captions

    def request(self, number: int, hit_rate: float = 1.0) -> RewardRequest:
        """The request of this number; the given share of its clips is one that every request draws from."""
        rng = np.random.default_rng([1, number])
        num_clips = max(1, self._num_captions // CAPTIONS_PER_CLIP)
        chosen = [self._clips[index] for index in rng.integers(len(self._clips), size=num_clips)]
        fresh = rng.random(num_clips) >= hit_rate
        clips = [
            Clip(f"fresh-{number}-{index}", clip.waveform, clip.sample_rate_hz) if is_fresh else clip
            for index, (clip, is_fresh) in enumerate(zip(chosen, fresh, strict=True))
        ]
        captions = tuple(self._captions[index] for index in rng.integers(len(self._captions), size=self._num_captions))
        return RewardRequest(tuple(clips), captions, np.arange(self._num_captions) % num_clips)

    def requests(self, hit_rate: float = 1.0) -> Callable[[int], RewardRequest]:
        """Requests by number; made beforehand where all clips are shared, so that making them costs nothing."""
        if hit_rate < 1:
            return lambda number: self.request(number, hit_rate)
        made = [self.request(number) for number in range(NUM_DISTINCT)]
        return lambda number: made[number % NUM_DISTINCT]

    @property
    def clips(self) -> list[Clip]:
        """The clips that requests share."""
        return self._clips


def bench_captions(number: int) -> list[str]:
    """Captions of the synthetic world."""
    lexicon = Lexicon.for_labels(LABELS)
    rng = np.random.default_rng(0)
    return [write_caption(scene_of(0, index), lexicon, rng) for index in range(number)]


def bench_model(config: RewardConfig, seed: int = 0) -> ClapReward:
    """The model in `config.checkpoint`, or one of the default's sizes with random weights."""
    if config.checkpoint:
        return ClapReward.load(Path(config.checkpoint))
    clap = SmallClap.for_captions(config.clap, bench_captions(1024), LogMelConfig(), seed=0)
    return ClapReward(clap, build_head(config.head, clap.embedding_dim, seed=seed), config.text_terms)


@contextmanager
def load_from_threads(
    client: Callable[[], RewardClient], request: Callable[[int], RewardRequest], num_threads: int
) -> Iterator[list[Answered]]:
    """Keep `num_threads` requests open all the time; the list grows with every answer."""
    answered: list[Answered] = []
    stopping = threading.Event()
    numbers = iter(range(10**12))

    def ask() -> None:
        while not stopping.is_set():
            asked = request(next(numbers))
            begun = time.perf_counter()
            batch = client().score(asked)
            answered.append(Answered(begun, time.perf_counter(), len(asked.captions), int(batch.failed.sum())))

    threads = [threading.Thread(target=ask) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def latencies_ms(answered: list[Answered]) -> Float64[np.ndarray, 3]:
    """Median, 95th and 99th percentile."""
    waited = np.array([one.done_s - one.begun_s for one in answered])
    quantiles: Float64[np.ndarray, 3] = 1000 * np.quantile(waited, [0.5, 0.95, 0.99])
    return quantiles
