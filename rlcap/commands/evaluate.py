"""`rlcap eval`: the held-out comparison of a run, again."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlcap.commands.parsing import Commands, add_command, add_overrides
from rlcap.commands.terminal import say

_DETAILS = """\
Compare the tuned captioner of a finished run with its baseline and the others of the run again, on its held-out
clips or on other ones.

reads:
  the run's settings and captioners, and the `heldout` split of the data

writes, in the run directory:
  eval.json   the key figures, named as in summary.json, which stays as it is"""

_MORE = """\
examples:
  rlcap eval runs/latest
  rlcap eval runs/esc10-20260101-120000 evaluation.num_bootstrap=10000

settings most often changed:
  data.kind, data.root       which recordings, in which layout; they need labels
  evaluation.num_bootstrap   resamples behind the confidence intervals"""


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
