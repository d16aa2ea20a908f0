"""`rlcap ledger`: proves that a run used every clip once."""

from __future__ import annotations

import argparse

from rlcap.commands.parsing import Commands, add_command
from rlcap.commands.terminal import aligned, say

_DETAILS = """\
Check the ledger of a run: which update used which clips. Every batch of the audio stream must have been used by one
update, or skipped because none of its clips could be used; and in every finished epoch each clip must have been used
once or quarantined, whatever was killed on the way. The ledger reaches up to the last checkpoint.

reads:
  ledger/           below the folder of the run, one Parquet file a checkpoint"""

_MORE = """\
examples:
  rlcap ledger runs/latest"""


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "ledger",
        _run,
        summary="prove that a run used no rollout twice and lost no clip",
        details=_DETAILS,
        more=_MORE,
    )
    parser.add_argument("run_dir", nargs="?", default="", metavar="RUN", help="run directory; default: the latest")


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.pipeline.rollout_ledger import check_ledger, read_ledger
    from rlcap.run_directory import find_run_directory

    report = check_ledger(read_ledger(find_run_directory(arguments.run_dir)))
    say(
        aligned(
            [
                ("updates", f"{report.num_updates}"),
                ("batches used, each by one update", f"{report.num_batches}"),
                ("batches skipped, since no clip could be used", f"{report.num_skipped}"),
                ("finished epochs, each clip accounted for", f"{report.num_epochs}"),
                ("clips used", f"{report.num_used}"),
                ("clips quarantined", f"{report.num_quarantined}"),
                ("captions", f"{report.num_captions}"),
                ("captions left out for want of a score", f"{report.num_unscored}"),
            ]
        )
    )
    return 0
