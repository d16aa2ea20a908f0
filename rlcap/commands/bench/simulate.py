"""`rlcap bench simulate`, also spelt `rlcap bench --simulate`: the real pipeline over models that sleep."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlcap.commands.bench.output import add_outputs, deliver
from rlcap.commands.parsing import Commands, add_command, add_overrides
from rlcap.commands.terminal import aligned, say

if TYPE_CHECKING:
    from rlcap.bench.simulation.measuring import SimulatedRate
    from rlcap.bench.simulation.simulate import Simulation

_DETAILS = """\
Size a cluster before renting it: run the real pipeline with models that sleep for as long as yours would compute, and
compare captions per second with the rate that these speeds allow.

Real are the training loop, the requests to actors and their bound on staleness, the stream's cursor, the shards of the
reward server with their queues and caches, clients, learner processes, and all bytes: audio, rollouts, weights. Asleep
are sampling, scoring and training. Left out are the decoding of audio (count it among the actor's seconds), networks
between nodes, and RLlib's care of actors: each is a process without Torch, so that 64 fit on a laptop.

reads:
  cluster.*, reward.num_shards, training.clips_per_batch, batches_per_update and samples_per_clip, as `rlcap train` does

writes:
  a table on the terminal, and all figures to --json FILE"""

_MORE = """\
examples:
  rlcap bench --simulate --actor-seconds 2 --reward-seconds 0.1 --learner-seconds 0.5 cluster.num_actors=64 \\
      reward.num_shards=8 cluster.num_learners=1 cluster.max_staleness=4 training.batches_per_update=32 \\
      training.clips_per_batch=256 --scale 1,4,16
  rlcap bench simulate --slow-actors 4 --slow-factor 3 --jitter 0.3 cluster.num_actors=16 cluster.max_staleness=4

settings most often changed:
  cluster.num_actors, reward.num_shards, cluster.num_learners   processes
  cluster.max_staleness                                         how far actors may run ahead
  training.batches_per_update                                   requests that an update is cut into"""


def spelt_out(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `bench --simulate` as the action it stands for."""
    if list(arguments[:2]) == ["bench", "--simulate"]:
        return ["bench", "simulate", *arguments[2:]]
    return list(arguments)


def register(actions: Commands) -> None:
    """Add the action."""
    action = add_command(
        actions, "simulate", _run, summary="the pipeline over models that sleep", details=_DETAILS, more=_MORE
    )
    speeds = action.add_argument_group("speeds")
    speeds.add_argument("--actor-seconds", type=float, default=1.0, metavar="S", help="one batch in an actor (1)")
    speeds.add_argument(
        "--reward-seconds", type=float, default=0.05, metavar="S", help="its captions in a shard (0.05)"
    )
    speeds.add_argument("--learner-seconds", type=float, default=0.5, metavar="S", help="one update (0.5)")
    speeds.add_argument(
        "--jitter", type=float, default=0.0, metavar="X", help="batches take up to this share longer (0)"
    )
    speeds.add_argument("--slow-actors", type=int, default=0, metavar="N", help="actors that are slower (0)")
    speeds.add_argument("--slow-factor", type=float, default=3.0, metavar="X", help="how many times as long (3)")
    speeds.add_argument("--rollouts-mb", type=float, default=0.25, metavar="MB", help="rollouts of a batch (0.25)")
    speeds.add_argument("--weights-mb", type=float, default=4.0, metavar="MB", help="weights of an update (4)")
    action.add_argument("--seconds", type=float, default=20.0, metavar="S", help="length of one measurement (20)")
    action.add_argument(
        "--scale", type=_counts, default=[], metavar="N,N", help="also with as many actors, as in 1,4,16"
    )
    add_outputs(action)
    add_overrides(action)


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.bench.simulation.speeds import Speeds
    from rlcap.config.load import load_config

    config = load_config(arguments.overrides)
    speeds = Speeds(
        actor_s=arguments.actor_seconds,
        reward_s=arguments.reward_seconds,
        learner_s=arguments.learner_seconds,
        jitter=arguments.jitter,
        num_slow=arguments.slow_actors,
        slow_factor=arguments.slow_factor,
        rollouts_mb=arguments.rollouts_mb,
        weights_mb=arguments.weights_mb,
    )
    speeds.check(config.cluster.num_actors)
    # Slow to import: faults in the settings come first.
    from rlcap.bench.simulation.simulate import simulate

    found = simulate(config, speeds, actor_counts=arguments.scale, duration_s=arguments.seconds)
    say(_text(found))
    deliver(found.as_json(), arguments)
    return 0


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"numbers of actors must be 1 or more, got {text}")
    return counts


def _text(found: Simulation) -> str:
    head = ("actors", "captions/s", "ideal", "share", "sampling", "scoring", "idle", "shards", "learner", "staleness")
    above = ("", "", "", "of ideal", "actors", "actors", "actors", "idle", "idle", "mean")
    last = found.rates[-1]
    return (
        f"{aligned([above, head, *(_row(rate) for rate in found.rates)])}\n\n"
        f"driver      {last.driver_ms_per_batch:.1f} ms of CPU a batch, {last.usage.driver:.0%} of one CPU\n"
        f"machine     {last.usage.machine:.0%} of its CPUs busy\n"
        f"bottleneck  {last.bottleneck}: {last.advice}"
    )


def _row(rate: SimulatedRate) -> tuple[str, ...]:
    usage = rate.usage
    shares = (usage.actors_sampling, usage.actors_scoring, usage.actors_idle, usage.shards_idle, usage.learner_idle)
    return (
        str(rate.num_actors),
        f"{rate.captions_per_s:.1f}",
        f"{rate.ideal_captions_per_s:.1f}",
        f"{rate.share_of_ideal:.1%}",
        *(f"{share:.0%}" for share in shares),
        f"{rate.mean_staleness:.1f}",
    )
