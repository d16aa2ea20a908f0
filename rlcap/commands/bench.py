"""`rlcap bench`: what the parts of a run reach on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rlcap.commands.parsing import Commands, HelpFormatter, add_command, add_overrides
from rlcap.commands.terminal import aligned, say

if TYPE_CHECKING:
    from rlcap.bench.learner_bench import LearnerBench
    from rlcap.bench.reward_bench import RewardBench
    from rlcap.bench.sampler_bench import SamplerBench
    from rlcap.bench.swap_bench import SwapBench

_DETAILS = """\
Measure the parts of a run on this machine, each beside what it could reach."""

_MORE = """\
examples:
  rlcap bench reward
  rlcap bench sampler --json sampler.json

`rlcap bench <action> --help` says what an action measures."""

_REWARD_DETAILS = """\
Measure the reward server: scores per second of one shard with a full queue, in turns with the same model called
directly, and the share of its speed that is reached; then scores per second and latency by captions in a request, by
shards, and by the share of clips whose audio is cached.

reads:
  reward.checkpoint, the model to serve; without it, one of the default's sizes with random weights

writes:
  a table on the terminal, and all figures to --json FILE"""

_REWARD_MORE = """\
examples:
  rlcap bench reward
  rlcap bench reward reward.checkpoint=runs/latest/reward --json reward.json

settings most often changed:
  reward.max_batch_size    captions in one pass of the text tower
  reward.max_wait_ms       how long a shard gathers requests
  cluster.shard_cpus       CPUs, and so threads, of a shard"""

_SAMPLER_DETAILS = """\
Measure how fast captions are sampled: 128 captions of 32 clips, of up to 24 tokens, by decoders of two sizes with
random weights, in turns with `transformers.generate()` on the same model and threads. Once every caption has 24 tokens,
and once captions end by themselves, as people's do. Other jobs on the machine spoil the figures.

reads:
  nothing; runs on the first GPU, or on the CPU

writes:
  a table on the terminal, and all figures to --json FILE"""

_SAMPLER_MORE = """\
examples:
  rlcap bench sampler
  rlcap bench sampler --rounds 15 --json sampler.json"""

_LEARNER_DETAILS = """\
Measure how fast the learner updates on such captions, in turns with a plain PyTorch update of the same model: captions
padded to the longest, a prefix for each, one step of PPO. Other jobs on the machine spoil the figures.

reads:
  nothing; runs on the first GPU, or on the CPU

writes:
  a table on the terminal, and all figures to --json FILE"""

_LEARNER_MORE = """\
examples:
  rlcap bench learner
  rlcap bench learner --rounds 15 --json learner.json"""

_SWAP_DETAILS = """\
Measure what callers feel of swaps: twenty heads over one encoder, five of them broken, are staged and committed one
after the other, while two callers keep asking two shards. Other jobs on the machine spoil the figures.

reads:
  reward.checkpoint, the model to start from; without it, one of the default's sizes with random weights

writes:
  a table on the terminal, and all figures to --json FILE"""

_SWAP_MORE = """\
examples:
  rlcap bench swap
  rlcap bench swap reward.checkpoint=runs/latest/reward --json swap.json"""


def register(commands: Commands) -> None:
    """Add the command and its actions."""
    bench = commands.add_parser(
        "bench",
        help="measure what parts of a run reach here",
        description=_DETAILS,
        epilog=_MORE,
        formatter_class=HelpFormatter,
    )
    actions = bench.add_subparsers(title="actions", metavar="<action>", required=True)
    reward = add_command(
        actions,
        "reward",
        _run_reward,
        summary="speed of the reward server",
        details=_REWARD_DETAILS,
        more=_REWARD_MORE,
    )
    reward.add_argument("--seconds", type=float, default=3.0, metavar="S", help="length of one measurement (3)")
    swap = add_command(
        actions, "swap", _run_swap, summary="what callers feel of swaps", details=_SWAP_DETAILS, more=_SWAP_MORE
    )
    swap.add_argument("--swaps", type=int, default=20, metavar="N", help="candidates, a quarter of them broken (20)")
    sampler = add_command(
        actions,
        "sampler",
        _run_sampler,
        summary="speed of the sampler, beside generate()",
        details=_SAMPLER_DETAILS,
        more=_SAMPLER_MORE,
    )
    learner = add_command(
        actions,
        "learner",
        _run_learner,
        summary="speed of the learner, beside a plain update",
        details=_LEARNER_DETAILS,
        more=_LEARNER_MORE,
    )
    for action in (sampler, learner):
        action.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each measurement (7)")
    for action in (reward, swap, sampler, learner):
        action.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    for action in (reward, swap):
        add_overrides(action)


def _run_reward(arguments: argparse.Namespace) -> int:
    from rlcap.config.load import load_config

    config = load_config(arguments.overrides)
    # Slow to import: faults in the settings come first.
    from rlcap.bench.reward_bench import bench_reward

    found = bench_reward(config.reward, config.cluster, round_s=arguments.seconds)
    say(_reward_text(found))
    _write(found.as_json(), arguments.json)
    return 0


def _run_swap(arguments: argparse.Namespace) -> int:
    from rlcap.config.load import load_config

    config = load_config(arguments.overrides)
    from rlcap.bench.swap_bench import bench_swap

    found = bench_swap(config.reward, config.cluster, num_swaps=arguments.swaps)
    say(_swap_text(found))
    _write(found.as_json(), arguments.json)
    return 0


def _run_sampler(arguments: argparse.Namespace) -> int:
    from rlcap.bench.sampler_bench import bench_sampler

    found = bench_sampler(arguments.rounds)
    say(_sampler_text(found))
    _write(found.as_json(), arguments.json)
    return 0


def _run_learner(arguments: argparse.Namespace) -> int:
    from rlcap.bench.learner_bench import bench_learner

    found = bench_learner(arguments.rounds)
    say(_learner_text(found))
    _write(found.as_json(), arguments.json)
    return 0


def _write(figures: Mapping[str, object], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _reward_text(found: RewardBench) -> str:
    rows: list[tuple[str, ...]] = [
        ("", "captions a request", "hit rate", "scores/s", "in a pass", "p50 ms", "p95 ms", "p99 ms", "failed")
    ]
    rows += [
        (
            f"{speed.num_shards} shard" + "s" * (speed.num_shards > 1),
            str(speed.captions_per_request),
            f"{speed.hit_rate:.0%}",
            f"{speed.scores_per_s:.0f}",
            f"{speed.captions_per_pass:.0f}",
            *(f"{ms:.0f}" for ms in (speed.latency_p50_ms, speed.latency_p95_ms, speed.latency_p99_ms)),
            str(speed.num_failed),
        )
        for speed in found.sweep
    ]
    return (
        f"one shard, full queue   {found.served_scores_per_s:.0f} scores/s\n"
        f"bare model              {found.bare_scores_per_s:.0f} scores/s, {found.captions_per_pass} captions a pass\n"
        f"share of bare model     {found.share_of_bare_model:.1%}\n\n{aligned(rows)}"
    )


def _sampler_text(found: SamplerBench) -> str:
    head = ("decoder", "captions", "rlcap/s", "generate()/s", "speed-up", "outside the model")
    rows = [
        (
            one.policy,
            one.workload,
            f"{one.captions_per_s:.0f}",
            f"{one.generate_captions_per_s:.0f}",
            f"{one.speedup_vs_generate:.2f} x",
            "" if one.outside_model is None else f"{one.outside_model:.0%}",
        )
        for one in found.speeds
    ]
    return aligned([head, *rows])


def _learner_text(found: LearnerBench) -> str:
    head = ("decoder", "captions", "tokens/s", "plain/s", "share of plain", "outside the model", "padding", "plain's")
    rows = [
        (
            one.policy,
            one.workload,
            f"{one.tokens_per_s:.0f}",
            f"{one.plain_tokens_per_s:.0f}",
            f"{one.share_of_plain_update:.1%}",
            f"{one.outside_model:.0%}",
            f"{one.padding:.0%}",
            f"{one.padding_of_plain:.0%}",
        )
        for one in found.speeds
    ]
    return aligned([head, *rows])


def _swap_text(found: SwapBench) -> str:
    return aligned(
        [
            ("swaps, of them refused", f"{found.num_swaps}, {found.num_refused}"),
            ("audio embedded anew", str(found.num_embedded_anew)),
            ("captions without a score", str(found.num_failed)),
            ("scores/s outside swaps", f"{found.scores_per_s_outside:.0f}"),
            ("scores/s within swaps", f"{found.scores_per_s_in_windows:.0f}"),
            ("share within swaps", f"{found.share_in_windows:.1%}"),
            ("a swap takes (median)", f"{found.median_window_ms:.0f} ms"),
            ("a request takes (median)", f"{found.latency_p50_ms:.0f} ms"),
            ("longest request outside", f"{found.longest_wait_outside_ms:.0f} ms"),
            ("longest request within", f"{found.longest_wait_in_windows_ms:.0f} ms"),
        ]
    )
