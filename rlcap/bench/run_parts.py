"""What a benchmarked run is made of: clips, a captioner and a reward model on disk, as a real one finds them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from actors.env_runner import ActorPlan
from rlcap.audio.arrow_store import ClipStore, write_clip_store
from rlcap.bench.reward_load import CLIP_S, SAMPLE_RATE_HZ, bench_captions, bench_model
from rlcap.captioners.loading import load_captioner
from rlcap.captioners.prefix_parts import build_prefix_captioner
from rlcap.captioners.tokenizer import build_word_tokenizer
from rlcap.config.captioner import CaptionerConfig
from rlcap.config.run import RunConfig
from rlcap.pipeline.tuning import actor_plan
from rlcap.types import Clip

EPOCH_UPDATES = 2
"""Updates that an epoch takes: once these are over the reward model has heard every clip, as in all later epochs."""
NUM_TEXTS = 4096
"""Captions of the synthetic world, whose words a random captioner knows."""


@dataclass(frozen=True, slots=True)
class RunParts:
    """Where the parts lie, and the settings of the run."""

    config: RunConfig
    clips: Path
    baseline: Path
    reward: Path

    def with_processes(self, num_actors: int, max_staleness: int, num_threads: int) -> RunParts:
        """The same parts under other settings; an update is asked for in as many batches as there are actors."""
        training, cluster, reward = self.config.training, self.config.cluster, self.config.reward
        shard_threads = max(1, num_threads // 2)  # shards score while the actor's reference does
        num_shards = min(reward.num_shards, shard_threads)
        config = replace(
            self.config,
            training=replace(training, batches_per_update=num_actors, num_updates=10**9),
            reward=replace(reward, num_shards=num_shards),
            cluster=replace(
                cluster,
                num_actors=num_actors,
                max_staleness=max_staleness,
                actor_cpus=float(num_threads),
                shard_cpus=float(shard_threads // num_shards),
            ),
        )
        return replace(self, config=config)

    def actor_plan(self) -> ActorPlan:
        """What an actor is given."""
        return actor_plan(self.config, ClipStore(self.clips), self.baseline)


def lay_out_parts(config: RunConfig, directory: Path) -> RunParts:
    """Write clips of noise, the captioner and the reward model; random ones where the settings name none."""
    rng = np.random.default_rng(config.seed)
    num_clips = EPOCH_UPDATES * config.training.clips_per_batch
    waveforms = (rng.standard_normal(int(CLIP_S * SAMPLE_RATE_HZ)).astype(np.float32) / 10 for _ in range(num_clips))
    clips = (Clip(f"bench-{number}", waveform, SAMPLE_RATE_HZ) for number, waveform in enumerate(waveforms))
    write_clip_store(directory / "clips.arrow", ((clip, "{}") for clip in clips))
    baseline, reward = directory / "baseline", directory / "reward"
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if config.captioner.checkpoint:
            load_captioner(Path(config.captioner.checkpoint)).save(baseline)
        else:
            _random_captioner(config.captioner, config.reward.clap.audio_channels, baseline)
        bench_model(config.reward).save(reward)
    return RunParts(config, directory / "clips.arrow", baseline, reward)


def _random_captioner(config: CaptionerConfig, encoder_channels: list[int], directory: Path) -> None:
    tokenizer = build_word_tokenizer(bench_captions(NUM_TEXTS))
    build_prefix_captioner(config, tokenizer, encoder_channels=encoder_channels, dropout=0.0).save(directory)
