"""`rlcap bench swap`: what callers of the reward server feel of swaps."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rlcap.commands.bench.output import add_outputs, deliver
from rlcap.commands.parsing import Commands, add_command, add_overrides
from rlcap.commands.terminal import aligned, say

if TYPE_CHECKING:
    from rlcap.bench.swap_bench import SwapBench

_DETAILS = """\
Measure what callers feel of swaps: twenty heads over one encoder, five of them broken, are staged and committed one
after the other, while two callers keep asking two shards. Other jobs on the machine spoil the figures.

reads:
  reward.checkpoint, the model to start from; without it, one of the default's sizes with random weights

writes:
  a table on the terminal, and all figures to --json FILE"""

_MORE = """\
examples:
  rlcap bench swap
  rlcap bench swap reward.checkpoint=runs/latest/reward --json swap.json"""


def register(actions: Commands) -> None:
    """Add the action."""
    action = add_command(actions, "swap", _run, summary="what callers feel of swaps", details=_DETAILS, more=_MORE)
    action.add_argument("--swaps", type=int, default=20, metavar="N", help="candidates, a quarter of them broken (20)")
    add_outputs(action)
    add_overrides(action)


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.config.load import load_config

    config = load_config(arguments.overrides)
    from rlcap.bench.swap_bench import bench_swap

    found = bench_swap(config.reward, config.cluster, num_swaps=arguments.swaps)
    say(_text(found))
    deliver(found.as_json(), arguments)
    return 0


def _text(found: SwapBench) -> str:
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
