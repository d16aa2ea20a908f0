"""rlcap's side: `python rlcap_side.py grpo|rloo|ppo NUM_STEPS NUM_THREADS MAX_STALENESS`, the whole pipeline."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from workload import (
    KL_COEF,
    LEARNING_RATE,
    NUM_CAPTIONS,
    NUM_PROMPTS,
    NUM_TOKENS,
    NUM_WARM_UP,
    PROMPT_LENGTH,
    SAMPLES_PER_PROMPT,
    gpt2,
    rewards_of,
    tell,
    tokenizer,
)

from actors.env_runner import ActorPlan
from rlcap.algorithm.caption_ppo import CaptionPPO, build_algorithm
from rlcap.algorithm.ray_session import ray_session, without_advice
from rlcap.algorithm.settings import RunPlan
from rlcap.audio.arrow_store import ClipStore, write_clip_store
from rlcap.captioners.prefix import PrefixCaptioner, PrefixCaptionerConfig
from rlcap.config.algorithm import AlgorithmKind, PPOConfig
from rlcap.config.captioner import SamplingConfig
from rlcap.config.cluster import ClusterConfig
from rlcap.config.training import TrainingConfig
from rlcap.protocols import RewardClient
from rlcap.types import Clip, RewardBatch, RewardRequest

SAMPLE_RATE_HZ = 16_000


class DistinctWords(RewardClient):
    """The reward, in the actor itself, as TRL has it in the trainer."""

    def score(self, request: RewardRequest) -> RewardBatch:
        """Score every caption."""
        scores = np.array(rewards_of(request.captions), dtype=np.float32)
        return RewardBatch(scores, np.zeros(len(scores), dtype=bool), (), "distinct words")


def main(kind: str, num_steps: int, num_threads: int, max_staleness: int) -> None:
    """Train, and tell the median update."""
    torch.set_num_threads(num_threads)
    cluster = ClusterConfig(num_actors=1, actor_cpus=float(num_threads), max_staleness=max_staleness)
    with tempfile.TemporaryDirectory() as directory, ray_session(cluster, 0):
        with without_advice():
            algorithm = build_algorithm(_plan(Path(directory), AlgorithmKind[kind], cluster, num_threads))
        try:
            tell(*_train(algorithm, num_steps + NUM_WARM_UP))
        finally:
            algorithm.stop()


def _plan(directory: Path, kind: AlgorithmKind, cluster: ClusterConfig, num_threads: int) -> RunPlan:
    rng = np.random.default_rng(0)
    waveforms = (rng.standard_normal(SAMPLE_RATE_HZ).astype(np.float32) / 10 for _ in range(4 * NUM_PROMPTS))
    clips = (Clip(f"noise-{number}", waveform, SAMPLE_RATE_HZ) for number, waveform in enumerate(waveforms))
    write_clip_store(directory / "clips.arrow", ((clip, "{}") for clip in clips))
    words = tokenizer()
    captioner = PrefixCaptioner(PrefixCaptionerConfig(num_segments=PROMPT_LENGTH - 1), gpt2(words), words)
    captioner.save(directory / "baseline")
    actor = ActorPlan(
        source=ClipStore(directory / "clips.arrow"),
        baseline=directory / "baseline",
        sampling=SamplingConfig(max_new_tokens=NUM_TOKENS),
        samples_per_clip=SAMPLES_PER_PROMPT,
        num_threads=num_threads,
    )
    ppo = PPOConfig(kind=kind, num_epochs=1, minibatch_size=NUM_CAPTIONS, learning_rate=LEARNING_RATE, kl_coef=KL_COEF)
    training = TrainingConfig(
        clips_per_batch=NUM_PROMPTS, batches_per_update=1, samples_per_clip=SAMPLES_PER_PROMPT, num_updates=10**9
    )
    return RunPlan(actor, DistinctWords(), ppo, training, cluster, 0)


def _train(algorithm: CaptionPPO, num_updates: int) -> tuple[list[float], float]:
    """Return the seconds of each update, and the mean length of captions."""
    step_s, lengths = [], []
    for _ in range(num_updates):
        begun = time.perf_counter()
        algorithm.train()
        step_s.append(time.perf_counter() - begun)
        lengths.append(algorithm.last_report.metrics["rollout/caption_length"])
    return step_s, float(np.mean(lengths))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
