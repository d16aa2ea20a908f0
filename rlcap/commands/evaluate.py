"""`rlcap eval`: the held-out comparison of a run, again."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlcap.commands.parsing import Commands, add_command, add_overrides
from rlcap.commands.terminal import say

_DETAILS = """\
Compare the tuned captioner of a run with its baseline on held-out clips, and write the report again.

reads:
  the run's settings, its last good checkpoint, and the `heldout` split of the data

writes, in the run directory:
  heldout.parquet   each clip's captions and verdict
  summary.json      the key figures
  report.html       the report"""

_MORE = """\
examples:
  rlcap eval runs/latest
  rlcap eval runs/esc10-20260101-120000 evaluation.num_bootstrap=10000
  rlcap eval runs/latest evaluation.num_report_clips=100

settings most often changed:
  evaluation.num_bootstrap      resamples behind the confidence intervals
  evaluation.num_report_clips   clips that the report lets you hear"""


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "eval", _run, summary="compare tuned and baseline on held-out clips", details=_DETAILS, more=_MORE
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory, such as runs/latest")
    add_overrides(parser)


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.run_directory import find_run_directory

    run = find_run_directory(arguments.run_dir)
    # Slow to import: faults in the command come first.
    from rlcap.pipeline.evaluate_run import evaluate

    say(str(evaluate(run.path, arguments.overrides)))
    return 0
