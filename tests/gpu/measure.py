"""What the parts of a run reach on this machine's GPU, as one table.

    python tests/gpu/measure.py OUT [CHECKPOINT ...]

Measured are rlcap's own small captioner, a Whisper of the smallest published size with random weights in every
precision, and the checkpoints that are named. OUT gets `gpu.json` and `gpu.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch

FAKES = Path(__file__).parents[1] / "fakes"
sys.path.insert(0, str(FAKES))
from tiny_models import save_whisper_of_published_size  # noqa: E402 - tests know this folder by pytest's settings

from actors.audio_cursor import CursorBatch  # noqa: E402
from actors.caption_actor import CaptionActor  # noqa: E402
from learner.ppo_update import PPOUpdate  # noqa: E402
from reward_server.scoring import ClapReward  # noqa: E402
from rlcap.bench.hardware import describe_hardware  # noqa: E402
from rlcap.bench.policies import SIZES, WHOLE, bench_policy  # noqa: E402
from rlcap.bench.reward_load import bench_captions, bench_model  # noqa: E402
from rlcap.captioners.loading import adopt_captioner, load_captioner  # noqa: E402
from rlcap.captioners.weights import load_into, publish  # noqa: E402
from rlcap.config.algorithm import PPOConfig  # noqa: E402
from rlcap.config.captioner import CaptionerConfig, SamplingConfig  # noqa: E402
from rlcap.config.reward import RewardConfig  # noqa: E402
from rlcap.protocols import RewardClient  # noqa: E402
from rlcap.types import Clip, RewardBatch, RewardRequest, ScoredRollouts  # noqa: E402

NUM_CLIPS, SAMPLES_PER_CLIP, MAX_TOKENS = 32, 8, 24
CLIP_S, SAMPLE_RATE_HZ = 5.0, 16_000
NUM_ROUNDS = 5
"""Behind one that warms up; medians count."""
T = TypeVar("T")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Speed:
    """One captioner in an actor and a learner on one GPU."""

    captioner: str
    actor_dtype: str
    captions_per_s: float
    """Sampled, and scored by the reference."""
    sampled_tokens_per_s: float
    learner_tokens_per_s: float
    weights_ms: float
    """From the learner's GPU to main memory, and from there into the actor's."""


class Noise:
    """A source of noise."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        length = int(CLIP_S * SAMPLE_RATE_HZ)
        self.clips = [
            Clip(f"noise-{number}", rng.standard_normal(length).astype(np.float32) / 10, SAMPLE_RATE_HZ)
            for number in range(NUM_CLIPS)
        ]

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, positions: tuple[int, ...]) -> tuple[list[Clip], list[object]]:
        return [self.clips[position] for position in positions], []


class RandomScores(RewardClient):
    """A reward that costs nothing."""

    def score(self, request: RewardRequest) -> RewardBatch:
        scores = np.random.default_rng(0).standard_normal(len(request.captions), dtype=np.float32)
        return RewardBatch(scores, np.zeros(len(scores), dtype=bool), (), "random")


def main() -> None:
    """Measure everything, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="*", metavar="CHECKPOINT")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, to try this script")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.dry_run:
        sys.exit("there is no GPU here: nothing was measured")
    device = torch.device("cpu" if arguments.dry_run else "cuda")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        speeds = [measure(name, path, device) for name, path in checkpoints(Path(directory), arguments.checkpoints)]
    found = {
        "measured_at": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": commit(),
        "device": device.type,
        "hardware": asdict(describe_hardware()),
        "driver": driver(),
        "speeds": [asdict(speed) for speed in speeds],
        "shard_scores_per_s": measure_shard(device),
    }
    (arguments.out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "gpu.md").write_text(table(found), encoding="utf-8")
    sys.stdout.write(table(found))


def checkpoints(directory: Path, given: list[Path]) -> list[tuple[str, Path]]:
    """Write the captioners that need no download; return all by name."""
    bench_policy(SIZES[-1], WHOLE, torch.device("cpu")).save(directory / "built-in")
    whispers = [
        (f"Whisper-tiny's size, {name_of(dtype)}", save_whisper_of_published_size(directory / name_of(dtype), dtype))
        for dtype in DTYPES
    ]
    return [(f"built-in, {SIZES[-1].name}", directory / "built-in"), *whispers, *((path.name, path) for path in given)]


def measure(name: str, checkpoint: Path, device: torch.device) -> Speed:
    """Time an actor, a learner, and the weights from one to the other, in turns."""
    source = Noise()
    policy = load_captioner(checkpoint, device)
    sampling = SamplingConfig(max_new_tokens=MAX_TOKENS)
    actor = CaptionActor(source, policy, policy.frozen_reference(), sampling, SAMPLES_PER_CLIP, device=device)
    learner = adopt_captioner(checkpoint, CaptionerConfig(), to_teach=True, device=device).to(device)
    update = PPOUpdate(learner, PPOConfig(minibatch_size=64, microbatch_size=64), seed=0)
    rounds = []
    for number in range(1 + NUM_ROUNDS):
        batch = CursorBatch(number, 0, tuple(range(NUM_CLIPS)), seed=number)
        sampled_s, result = timed(
            lambda batch=batch, number=number: actor.caption(batch, number, RandomScores()), device
        )
        update_s, _ = timed(lambda scored=result.scored: update.update([scored]), device)
        weights_s, _ = timed(lambda: load_into(actor.policy, publish(learner, trainable_only=True)), device)
        rounds.append((num_tokens(result.scored), sampled_s, update_s, weights_s))
    tokens, sampled_s, update_s, weights_s = np.array(rounds[1:]).T
    return Speed(
        captioner=name,
        actor_dtype=name_of(next(actor.policy.parameters()).dtype),
        captions_per_s=NUM_CLIPS * SAMPLES_PER_CLIP / median(sampled_s),
        sampled_tokens_per_s=median(tokens / sampled_s),
        learner_tokens_per_s=median(tokens / update_s),
        weights_ms=1000 * median(weights_s),
    )


def measure_shard(device: torch.device) -> float:
    """Return how many captions of clips that it has heard a reward model scores a second."""
    model: ClapReward = bench_model(RewardConfig())
    model.to(device)
    clips = Noise().clips
    captions = list(bench_captions(NUM_CLIPS * SAMPLES_PER_CLIP))
    index = np.arange(len(captions)) % len(clips)
    embedded = model.embed_audio(clips)
    times = [timed(lambda: model.score(embedded, captions, index), device)[0] for _ in range(1 + NUM_ROUNDS)]
    return len(captions) / median(times[1:])


def timed(run: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Return the seconds of a call, to the end of what it started on the GPU, and its result."""
    begun = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun, result


def num_tokens(scored: ScoredRollouts) -> int:
    """Count what was sampled."""
    return int(scored.rollouts.action_mask.sum())


def name_of(dtype: torch.dtype) -> str:
    """Return it without torch's prefix."""
    return str(dtype).removeprefix("torch.")


def commit() -> str:
    """Return what this checkout holds; a copy without git holds nothing to name."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=FAKES, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "not a git checkout"


def driver() -> str:
    """Return the version of the GPU's driver."""
    if not torch.cuda.is_available():
        return ""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def table(found: dict[str, object]) -> str:
    """Write what docs/gpu.md shows."""
    hardware, speeds = found["hardware"], found["speeds"]
    packages = ", ".join(f"{name} {version}" for name, version in hardware["packages"].items())
    gpu = f"{hardware['gpu']} (driver {found['driver']}), " if hardware["gpu"] else ""
    lines = [
        f"{found['measured_at']}, commit {found['commit']}: {gpu}{hardware['num_cores']} cores of "
        f"{hardware['processor']}, Python {hardware['python']}, {packages}.",
        "",
        "| captioner | actor computes in | captions/s | sampled tokens/s | learner tokens/s | weights, ms |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['captioner']} | {one['actor_dtype']} | {one['captions_per_s']:.0f} "
        f"| {one['sampled_tokens_per_s']:.0f} | {one['learner_tokens_per_s']:.0f} | {one['weights_ms']:.1f} |"
        for one in speeds
    ]
    return "\n".join([*lines, "", f"A shard scored {found['shard_scores_per_s']:.0f} captions/s.", ""])


if __name__ == "__main__":
    main()
