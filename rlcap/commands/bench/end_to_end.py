"""`rlcap bench end-to-end`: how fast a whole run goes round, beside a tight loop in one process."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from rlcap.commands.bench.output import add_outputs, deliver
from rlcap.commands.bench.sweep import numbers
from rlcap.commands.parsing import Commands, add_command, add_overrides
from rlcap.commands.terminal import aligned, say

if TYPE_CHECKING:
    from rlcap.bench.end_to_end_bench import EndToEndBench

_DETAILS = """\
Measure a whole run, from clips to new weights at the actors, in turns with a tight loop that calls the same captioner,
reward model, sampler and learner in one process without Ray. Says what holds the run up, and which setting to change.
Other jobs on the machine spoil the figures.

reads:
  captioner.checkpoint and reward.checkpoint; without them, models of the default's sizes with random weights

writes:
  a table on the terminal, and all figures to --json FILE"""

_MORE = """\
examples:
  rlcap bench end-to-end
  rlcap bench end-to-end --actors 1,2,4 --staleness 0,1 --json end_to_end.json
  rlcap bench end-to-end captioner.checkpoint=runs/latest/captioners/tuned reward.checkpoint=runs/latest/reward

settings most often changed:
  training.clips_per_batch, training.samples_per_clip    captions behind one update
  reward.num_shards                                      processes that score
  captioner.width, captioner.num_layers                  size of a random captioner"""


def register(actions: Commands) -> None:
    """Add the action."""
    action = add_command(
        actions, "end-to-end", _run, summary="speed of a whole run, beside a tight loop", details=_DETAILS, more=_MORE
    )
    action.add_argument("--actors", type=numbers, default=[1], metavar="N,N", help="numbers of actors (1)")
    action.add_argument(
        "--staleness", type=numbers, default=[0, 1], metavar="N,N", help="bounds on the staleness (0,1)"
    )
    action.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each measurement (5)")
    action.add_argument("--updates", type=int, default=5, metavar="N", help="updates in a turn (5)")
    action.add_argument(
        "--threads", type=int, default=0, metavar="N", help="of the tight loop, and of a run in all (the cores)"
    )
    add_outputs(action)
    add_overrides(action)


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.config.load import load_config

    config = load_config(arguments.overrides)
    from rlcap.bench.end_to_end_bench import bench_end_to_end

    found = bench_end_to_end(
        config,
        arguments.actors,
        arguments.staleness,
        num_rounds=arguments.rounds,
        num_updates=arguments.updates,
        num_threads=arguments.threads or len(os.sched_getaffinity(0)),
    )
    say(_text(found))
    deliver(found.as_json(), arguments)
    return 0


def _text(found: EndToEndBench) -> str:
    names = [
        f"{one.num_actors} actor{'s' * (one.num_actors > 1)}, staleness {one.max_staleness}" for one in found.speeds
    ]
    rows: list[tuple[str, ...]] = [
        ("", *names),
        ("share of tight loop", *(f"{one.share_of_tight_loop:.1%}" for one in found.speeds)),
        ("captions/s of tight loop", *(f"{one.tight_captions_per_s:.0f}" for one in found.speeds)),
        ("captions/s", *(f"{one.captions_per_s:.0f}" for one in found.speeds)),
        ("audio-seconds/s", *(f"{one.audio_s_per_s:.0f}" for one in found.speeds)),
        ("tokens/s", *(f"{one.tokens_per_s:.0f}" for one in found.speeds)),
        ("reward queries/s", *(f"{one.reward_queries_per_s:.0f}" for one in found.speeds)),
        ("learner idle", *(f"{one.learner_idle:.0%}" for one in found.speeds)),
        ("actors idle", *(f"{one.actor_idle:.0%}" for one in found.speeds)),
        ("cores busy", *(f"{one.cores_busy:.0%}" for one in found.speeds)),
        ("staleness, mean and most", *(f"{one.staleness:.2f}, {one.max_staleness_seen:.0f}" for one in found.speeds)),
    ]
    held_up = [f"{name}: held up by {one.bottleneck}" for name, one in zip(names, found.speeds, strict=True)]
    return "\n".join([aligned(rows), "", *held_up])
