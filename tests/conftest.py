"""What several tests start from: a finished run of plausible numbers and sounds, tiny captioners, clips."""

import csv
import io
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import settings

from rlcap.config.run import RunConfig
from rlcap.config.training import TrackingConfig
from rlcap.metrics import MetricsWriter
from rlcap.run_directory import RunDirectory, create_run_directory
from rlcap.types import Clip

# A job that was started in the background ignores Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples each time; and machines may be busy.
settings.register_profile("rlcap", deadline=None, derandomize=True)
settings.load_profile("rlcap")

SCENES = (
    (
        "a dog barks twice, then a car horn",
        "a dog barks and a car horn sounds",
        "a dog barks twice and then a car horn",
    ),
    ("rain falls while thunder rolls", "rain falls", "rain falls while thunder rolls"),
    ("a clock ticks before a door closes", "a clock ticks and a bird sings", "a clock ticks and then a door closes"),
    ("a siren wails", "a siren wails", "a siren wails in the distance"),
    ("birds sing over a stream", "a bird sings and a dog barks", "a bird sings while water runs"),
    ("an engine starts and idles", "an engine runs", "an engine runs"),
)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    """Return a function that writes a finished run of `num_updates` updates and `num_clips` held-out clips."""

    def make(num_updates: int = 60, num_clips: int = 24) -> RunDirectory:
        run = create_run_directory(RunConfig(run_dir=str(tmp_path / "quickstart-20260101-120000")))
        rng = np.random.default_rng(0)
        _write_metrics(run, num_updates, rng)
        _write_samples(run, num_updates)
        _write_heldout(run, num_clips, rng)
        _write_quarantine(run)
        run.summary.write_text(json.dumps(_summary()), encoding="utf-8")
        return run

    return make


def _write_metrics(run: RunDirectory, num_updates: int, rng: np.random.Generator) -> None:
    writer = MetricsWriter(run, TrackingConfig(tensorboard=False))
    for update in range(1, num_updates + 1):
        progress = 1 - np.exp(-update / 20)
        writer.log(
            update,
            {
                "rollout/reward_mean": 1.6 * progress + 0.12 * rng.normal(),
                "rollout/kl_to_reference": 4.2 * progress**2 + 0.1 * rng.normal(),
                "rollout/caption_length": 8 + 1.2 * progress + 0.2 * rng.normal(),
                "learner/entropy": 0.9 - 0.35 * progress + 0.02 * rng.normal(),
                "learner/clip_fraction": 0.08 + 0.02 * rng.normal(),
                "learner/approx_kl": 0.006 + 0.001 * rng.normal(),
                "learner/value_loss": 0.6 * np.exp(-update / 10) + 0.05 * abs(rng.normal()),
            },
        )
    writer.close()


def _write_samples(run: RunDirectory, num_updates: int) -> None:
    rows = [
        {
            "update": update,
            "clip_id": f"rl-{index:05d}",
            "caption": baseline if update < num_updates / 2 else tuned,
            "reward": 0.2 + update / num_updates,
            "reward_version": "r1",
        }
        for update in range(0, num_updates + 1, max(1, num_updates // 6))
        for index, (_, baseline, tuned) in enumerate(SCENES)
    ]
    pq.write_table(pa.Table.from_pylist(rows), run.samples)


def _write_heldout(run: RunDirectory, num_clips: int, rng: np.random.Generator) -> None:
    rows = []
    for index in range(num_clips):
        truth, baseline, tuned = SCENES[index % len(SCENES)]
        rows.append(
            {
                "clip_id": f"heldout-{index:05d}",
                "truth": truth,
                "baseline": baseline,
                "tuned": tuned,
                "supervised": baseline,
                "verdict": ("tuned", "tuned", "baseline", "tie")[index % 4],
                "baseline_right": index % 3 == 0,
                "tuned_right": index % 3 != 1,
                "audio_flac": _flac(rng) if index < num_clips - 1 else None,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), run.heldout)


def _flac(rng: np.random.Generator) -> bytes:
    seconds = np.arange(16_000) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 2000) * seconds) * np.exp(-4 * seconds)
    buffer = io.BytesIO()
    soundfile.write(buffer, tone + 0.01 * rng.normal(size=16_000), 16_000, format="FLAC")
    return buffer.getvalue()


def _write_quarantine(run: RunDirectory) -> None:
    with run.quarantine.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(
            [("path", "reason"), ("broken.wav", "no audio could be decoded"), ("hush.wav", "silent: peak -96 dBFS")]
        )


def _summary() -> dict[str, object]:
    return {
        "experiment": "quickstart",
        "seed": 0,
        "synthetic": True,
        "win_rate": 0.712,
        "win_rate_ci95": [0.664, 0.758],
        "win_rate_where_baseline_failed": 0.803,
        "win_rate_where_baseline_failed_ci95": [0.741, 0.861],
        "win_rate_vs_supervised": 0.54,
        "win_rate_vs_supervised_ci95": [0.487, 0.595],
        "controls": {
            "text_only": {"win_rate_of_tuned_against_it": 0.69, "win_rate_of_tuned_against_it_ci95": [0.64, 0.74]},
            "shuffled_audio": {"win_rate_of_tuned_against_it": 0.73},
        },
        "named_right_baseline": 0.41,
        "named_right_tuned": 0.63,
        "named_right_supervised": 0.58,
        "reward_pair_accuracy": 0.811,
        "mean_kl": 4.17,
        "captions_per_s": 118.4,
        "quarantined": 2,
        "caption_length": {"baseline": 7.9, "tuned": 8.8, "supervised": 8.1},
        "distinct_captions": {"baseline": 0.52, "tuned": 0.61, "supervised": 0.57},
        "repetition": {"baseline": 0.004, "tuned": 0.006, "supervised": 0.004},
        "wall_s": {"sft": 62.1, "clap": 148.0, "preferences": 21.5, "reward": 44.2, "ppo": 241.7, "evaluation": 33.0},
    }


@pytest.fixture(scope="session")
def make_captioner() -> Callable[..., Any]:
    """Return a function that builds a tiny prefix captioner around a real GPT-2 or Llama, in evaluation mode.

    Its weights are random, but large enough for captions that differ from clip to clip and end at any length.
    """
    import torch

    from rlcap.captioners.prefix_parts import build_prefix_captioner
    from rlcap.captioners.tokenizer import build_word_tokenizer
    from rlcap.config.captioner import CaptionerConfig

    def make(
        *, seed: int = 0, freeze_encoder: bool = True, dropout: float = 0.1, llama: bool = False, **sizes: int
    ) -> Any:
        settings = {"width": 16, "num_layers": 2, "num_heads": 2, "prefix_length": 4, "max_caption_tokens": 16, **sizes}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            captioner = build_prefix_captioner(
                CaptionerConfig(**settings, freeze_encoder=freeze_encoder),
                build_word_tokenizer(("a", "dog", "barks", "rain", "falls", "then")),
                encoder_channels=(4, 4, 8, 8),
                dropout=dropout,
            )
            if llama:
                captioner = _around_a_llama(captioner)
            with torch.no_grad():
                for parameter in captioner.language_model.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
                for norm in captioner.audio_tower.norms:
                    norm.running_mean.normal_(std=0.1)
                captioner.value_head[-1].weight.normal_()  # a critic that tells states apart: a new one does not
        return captioner.eval()

    return make


def _around_a_llama(captioner: Any) -> Any:
    """Rotary positions, grouped heads, no dropout, weights not tied: all that a GPT-2 is not."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlcap.captioners.prefix import PrefixCaptioner

    gpt2 = captioner.language_model.config
    config = LlamaConfig(
        vocab_size=gpt2.vocab_size,
        hidden_size=gpt2.n_embd,
        intermediate_size=2 * gpt2.n_embd,
        num_hidden_layers=gpt2.n_layer,
        num_attention_heads=gpt2.n_head,
        num_key_value_heads=1,
        max_position_embeddings=gpt2.n_positions,
        bos_token_id=gpt2.eos_token_id,
        eos_token_id=gpt2.eos_token_id,
        pad_token_id=gpt2.pad_token_id,
    )
    return PrefixCaptioner(captioner.config, LlamaForCausalLM(config), captioner.tokenizer, parts=captioner.parts)


@pytest.fixture(scope="session")
def make_clips() -> Callable[..., list[Clip]]:
    """Return a function that makes clips of noise, a tone in each, of any lengths in seconds."""

    def make(*durations_s: float, seed: int = 0) -> list[Clip]:
        rng = np.random.default_rng(seed)
        clips = []
        for index, duration_s in enumerate(durations_s):
            time_s = np.arange(round(duration_s * 16_000)) / 16_000
            tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 6000) * time_s)
            noise = rng.uniform(0.001, 0.1) * rng.standard_normal(len(time_s))
            clips.append(Clip(f"clip-{index}", (tone + noise).astype(np.float32), 16_000))
        return clips

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the directory of a small random model of this architecture: only read it."""
    from tiny_models import save_tiny_model

    made: dict[str, Path] = {}

    def find(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = save_tiny_model(architecture, tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return find
