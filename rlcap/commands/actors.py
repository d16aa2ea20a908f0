"""`rlcap actors`: the caption actors of a run while it goes on."""

from __future__ import annotations

import argparse

from rlcap.commands.parsing import Commands, add_actions, add_command
from rlcap.commands.terminal import say

_DETAILS = """\
The caption actors of a run: the processes that caption clips for the learner."""

_MORE = """\
examples:
  rlcap actors scale runs/latest --add 2

`rlcap actors <action> --help` says what an action reads and writes."""

_SCALE_DETAILS = """\
Let caption actors join or leave a run while it goes on. Those that join caption as soon as they have started: where
Ray has no room for them, they wait for it, and an autoscaler that watches may add a node. Of those that leave, others
caption what they were at. With cluster.max_staleness=0 the weights come out the same, bit for bit.

The number is not kept: a run that is resumed begins with cluster.num_actors.

reads:
  RUN    the folder of a run in its PPO stage"""

_SCALE_MORE = """\
examples:
  rlcap actors scale runs/latest --add 2
  rlcap actors scale runs/latest --remove 1"""


def register(commands: Commands) -> None:
    """Add the command and its action."""
    actions = add_actions(
        commands, "actors", summary="add caption actors to a live run, or remove some", details=_DETAILS, more=_MORE
    )
    scale = add_command(
        actions, "scale", _run_scale, summary="add or remove some", details=_SCALE_DETAILS, more=_SCALE_MORE
    )
    scale.add_argument("run_dir", metavar="RUN", help="run directory, such as runs/latest")
    change = scale.add_mutually_exclusive_group(required=True)
    change.add_argument("--add", metavar="N", type=_positive, default=0, help="let so many join")
    change.add_argument("--remove", metavar="N", type=_positive, default=0, help="let so many leave")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


def _run_scale(arguments: argparse.Namespace) -> int:
    from rlcap import live

    found = live.scale_actors(arguments.run_dir, add=arguments.add, remove=arguments.remove)
    away = f", {found['num_away']} more have yet to start" if found["num_away"] else ""
    say(f"{found['num_present']} caption actors are at work{away}")
    return 0
