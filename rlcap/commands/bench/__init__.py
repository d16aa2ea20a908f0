"""`rlcap bench`: what the parts of a run reach on this machine. One file for each action."""

from __future__ import annotations

from rlcap.commands.bench import audio, end_to_end, learner, reward, sampler, simulate, swap, weights
from rlcap.commands.parsing import Commands, HelpFormatter

_DETAILS = """\
Measure the parts of a run on this machine, each beside what it could reach."""

_MORE = """\
examples:
  rlcap bench end-to-end
  rlcap bench sampler --json sampler.json --html sampler.html
  rlcap bench sampler --compare sampler.json
  rlcap bench --simulate cluster.num_actors=16 cluster.max_staleness=4

`rlcap bench <action> --help` says what an action measures."""


def register(commands: Commands) -> None:
    """Add the command and its actions."""
    bench = commands.add_parser(
        "bench",
        help="measure what parts of a run reach here",
        description=_DETAILS,
        epilog=_MORE,
        formatter_class=HelpFormatter,
    )
    actions = bench.add_subparsers(title="actions", metavar="<action>", required=True)
    for module in (end_to_end, sampler, learner, reward, swap, weights, audio, simulate):
        module.register(actions)
