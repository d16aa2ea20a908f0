"""`rlcap report`: the report of a run, written again from its files."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlcap.commands.parsing import Commands, add_command
from rlcap.commands.terminal import say

_DETAILS = """\
Write the report of a run again, from what the run has left so far. Works on runs that are still going, or were stopped.

reads:
  config.yaml, metrics.parquet, samples.parquet, heldout.parquet, quarantine.csv and summary.json of the run

writes:
  report.html in the run directory: one file, readable without a network"""

_MORE = """\
examples:
  rlcap report                                   of the latest run
  rlcap report runs/esc10-20260101-120000"""


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "report", _run, summary="write a run's report again", details=_DETAILS, more=_MORE)
    parser.add_argument("run_dir", type=Path, nargs="?", metavar="RUN", help="run directory; default: the latest")


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.report.build import build_report
    from rlcap.run_directory import find_run_directory

    say(str(build_report(find_run_directory(arguments.run_dir or "").path)))
    return 0
