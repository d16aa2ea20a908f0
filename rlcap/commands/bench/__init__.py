"""`rlcap bench`: what the parts of a run reach on this machine. One file for each action."""

from __future__ import annotations

from rlcap.commands.bench import audio, end_to_end, learner, reward, sampler, simulate, swap, weights
from rlcap.commands.parsing import Commands, add_actions

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
    actions = add_actions(
        commands, "bench", summary="measure what parts of a run reach here", details=_DETAILS, more=_MORE
    )
    for module in (end_to_end, sampler, learner, reward, swap, weights, audio, simulate):
        module.register(actions)
