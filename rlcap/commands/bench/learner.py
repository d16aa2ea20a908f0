"""`rlcap bench learner`: how fast the learner updates, beside a plain update."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rlcap.commands.bench.output import add_outputs, deliver
from rlcap.commands.parsing import Commands, add_command
from rlcap.commands.terminal import aligned, say

if TYPE_CHECKING:
    from rlcap.bench.learner_bench import LearnerBench

_DETAILS = """\
Measure how fast the learner updates on 128 captions of 32 clips, of up to 24 tokens, in turns with a plain PyTorch
update of the same model: captions padded to the longest, a prefix for each, one step of PPO. Other jobs on the machine
spoil the figures.

reads:
  nothing; runs on the first GPU, or on the CPU

writes:
  a table on the terminal, and all figures to --json FILE"""

_MORE = """\
examples:
  rlcap bench learner
  rlcap bench learner --rounds 15 --json learner.json"""


def register(actions: Commands) -> None:
    """Add the action."""
    action = add_command(
        actions, "learner", _run, summary="speed of the learner, beside a plain update", details=_DETAILS, more=_MORE
    )
    action.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each measurement (7)")
    add_outputs(action)


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.bench.learner_bench import bench_learner

    found = bench_learner(arguments.rounds)
    say(_text(found))
    deliver(found.as_json(), arguments)
    return 0


def _text(found: LearnerBench) -> str:
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
