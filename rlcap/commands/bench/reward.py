"""`rlcap bench reward`: how fast the reward server is, beside the bare model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rlcap.commands.bench.output import add_outputs, deliver
from rlcap.commands.parsing import Commands, add_command, add_overrides
from rlcap.commands.terminal import aligned, say

if TYPE_CHECKING:
    from rlcap.bench.reward_bench import RewardBench

_DETAILS = """\
Measure the reward server: scores per second of one shard with a full queue, in turns with the same model called
directly, and the share of its speed that is reached; then scores per second and latency by captions in a request, by
shards, and by the share of clips whose audio is cached.

reads:
  reward.checkpoint, the model to serve; without it, one of the default's sizes with random weights

writes:
  a table on the terminal, and all figures to --json FILE"""

_MORE = """\
examples:
  rlcap bench reward
  rlcap bench reward reward.checkpoint=runs/latest/reward --json reward.json

settings most often changed:
  reward.max_batch_size    captions in one pass of the text tower
  reward.max_wait_ms       how long a shard gathers requests
  cluster.shard_cpus       CPUs, and so threads, of a shard"""


def register(actions: Commands) -> None:
    """Add the action."""
    action = add_command(actions, "reward", _run, summary="speed of the reward server", details=_DETAILS, more=_MORE)
    action.add_argument("--seconds", type=float, default=3.0, metavar="S", help="length of one measurement (3)")
    add_outputs(action)
    add_overrides(action)


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.config.load import load_config

    config = load_config(arguments.overrides)
    # Slow to import: faults in the settings come first.
    from rlcap.bench.reward_bench import bench_reward

    found = bench_reward(config.reward, config.cluster, round_s=arguments.seconds)
    say(_text(found))
    deliver(found.as_json(), arguments)
    return 0


def _text(found: RewardBench) -> str:
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
