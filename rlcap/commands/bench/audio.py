"""`rlcap bench audio`: how fast clips are read, by our sources and by Ray Data."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rlcap.commands.bench.output import add_outputs, deliver
from rlcap.commands.parsing import Commands, add_command
from rlcap.commands.terminal import aligned, say

if TYPE_CHECKING:
    from rlcap.bench.audio_bench import AudioBench

_DETAILS = """\
Measure how fast clips are read and decoded in one process, in the shuffled batches of a run: from a clip store (decoded
beforehand, as rlcap keeps soundscapes), and as FLAC from files, Parquet and WebDataset shards; in turns with Ray Data
on the same Parquet files, which decodes on all cores, but in the order of the files. Other jobs on the machine spoil
the figures.

reads:
  nothing; clips of noise are made for the occasion

writes:
  a table on the terminal, and all figures to --json FILE"""

_MORE = """\
examples:
  rlcap bench audio
  rlcap bench audio --clips 2048 --seconds 10 --json audio.json"""


def register(actions: Commands) -> None:
    """Add the action."""
    action = add_command(actions, "audio", _run, summary="speed of reading clips", details=_DETAILS, more=_MORE)
    action.add_argument("--clips", type=int, default=512, metavar="N", help="clips to read (512)")
    action.add_argument("--seconds", type=float, default=5.0, metavar="S", help="length of a clip (5)")
    action.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each measurement (5)")
    action.add_argument("--without-ray-data", action="store_true", help="leave out Ray Data")
    add_outputs(action)


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.bench.audio_bench import bench_audio

    found = bench_audio(
        arguments.clips, arguments.seconds, arguments.rounds, with_ray_data=not arguments.without_ray_data
    )
    say(_text(found))
    deliver(found.as_json(), arguments)
    return 0


def _text(found: AudioBench) -> str:
    head = ("reader", "clips/s", "µs a clip", "audio-seconds/s", "first batch ms")
    rows = [
        (
            one.reader,
            f"{one.clips_per_s:.0f}",
            f"{one.us_per_clip:.1f}",
            f"{one.audio_s_per_s:.0f}",
            f"{one.first_batch_ms:.1f}",
        )
        for one in found.speeds
    ]
    return aligned([head, *rows])
