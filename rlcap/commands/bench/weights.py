"""`rlcap bench weights`: how fast new weights reach the actors of a node, beside a plain copy of memory."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rlcap.commands.bench.output import add_outputs, deliver
from rlcap.commands.bench.sweep import numbers, sizes
from rlcap.commands.parsing import Commands, add_command
from rlcap.commands.terminal import aligned, say

if TYPE_CHECKING:
    from rlcap.bench.weights_bench import WeightsBench

_DETAILS = """\
Measure how fast new weights reach the actors of a node: from the learner's module to flat buffers, from there to shared
memory, and into the module of every actor; in turns with plain copies of as many bytes by all cores. In float32,
rounded to bfloat16 on the way, and of adapters alone, of a hundredth of the size. The first versions, which touch
memory that nobody has used yet, are not timed. Other jobs on the machine spoil the figures.

reads:
  nothing

writes:
  a table on the terminal, and all figures to --json FILE"""

_MORE = """\
examples:
  rlcap bench weights
  rlcap bench weights --megabytes 50,500 --actors 1,4 --json weights.json"""


def register(actions: Commands) -> None:
    """Add the action."""
    action = add_command(
        actions, "weights", _run, summary="speed of weights on their way to actors", details=_DETAILS, more=_MORE
    )
    action.add_argument("--megabytes", type=sizes, default=[500.0], metavar="MB,MB", help="sizes in float32 (500)")
    action.add_argument("--actors", type=numbers, default=[4], metavar="N,N", help="numbers of actors (4)")
    action.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each measurement (5)")
    add_outputs(action)


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.bench.weights_bench import bench_weights

    found = bench_weights(arguments.megabytes, arguments.actors, arguments.rounds)
    say(_text(found))
    deliver(found.as_json(), arguments)
    return 0


def _text(found: WeightsBench) -> str:
    head = (
        "weights",
        "MB",
        "actors",
        "publish ms",
        "put ms",
        "load ms",
        "all ms",
        "arrived GB/s",
        "copied GB/s",
        "share",
    )
    rows = [
        (
            one.variant,
            f"{one.megabytes:.1f}",
            str(one.num_actors),
            *(f"{ms:.1f}" for ms in (one.publish_ms, one.put_ms, one.load_ms, one.total_ms)),
            f"{one.delivered_gb_per_s:.1f}",
            f"{one.copy_gb_per_s:.1f}",
            f"{one.share_of_memory_bandwidth:.0%}",
        )
        for one in found.speeds
    ]
    return aligned([head, *rows])
