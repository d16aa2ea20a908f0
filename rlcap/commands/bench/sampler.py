"""`rlcap bench sampler`: how fast captions are sampled, beside `generate()`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rlcap.commands.bench.output import add_outputs, deliver
from rlcap.commands.parsing import Commands, add_command
from rlcap.commands.terminal import aligned, say

if TYPE_CHECKING:
    from rlcap.bench.sampler_bench import SamplerBench

_DETAILS = """\
Measure how fast captions are sampled: 128 captions of 32 clips, of up to 24 tokens, by decoders of two sizes with
random weights, in turns with `transformers.generate()` on the same model and threads. Once every caption has 24 tokens,
and once captions end by themselves, as people's do. Other jobs on the machine spoil the figures.

reads:
  nothing; runs on the first GPU, or on the CPU

writes:
  a table on the terminal, and all figures to --json FILE"""

_MORE = """\
examples:
  rlcap bench sampler
  rlcap bench sampler --rounds 15 --json sampler.json"""


def register(actions: Commands) -> None:
    """Add the action."""
    action = add_command(
        actions, "sampler", _run, summary="speed of the sampler, beside generate()", details=_DETAILS, more=_MORE
    )
    action.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each measurement (7)")
    add_outputs(action)


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.bench.sampler_bench import bench_sampler

    found = bench_sampler(arguments.rounds)
    say(_text(found))
    deliver(found.as_json(), arguments)
    return 0


def _text(found: SamplerBench) -> str:
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
