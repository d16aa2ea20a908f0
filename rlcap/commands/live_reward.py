"""`rlcap reward swap`, `rollback`, `status` and `scale`: the reward of a run while it goes on."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from rlcap.commands.parsing import Commands, add_command
from rlcap.commands.terminal import aligned, say

_SWAP_DETAILS = """\
Replace the reward model of a run while it goes on. Every shard loads the candidate beside the live model and scores
captions of the first and the latest update with it. Only if all of its scores are there and differ does it go live,
with the first update of which no caption has been scored yet: rewards of two models never meet in one update. A
candidate that is broken, or that does not fit into memory, is refused with the reason; the run goes on unharmed.

reads:
  RUN    the folder of a run in its PPO stage
  PATH   a reward model, as `rlcap reward fit` writes it

writes:
  RUN/reward_models/<version>   a copy, with which the run is resumed
  RUN/reward_history.json       which model scored from which update on"""

_SWAP_MORE = """\
examples:
  rlcap reward swap runs/latest runs/cache/reward-mlp-0123456789abcdef
  rlcap reward swap runs/latest new-reward --shadow   let it score the traffic first, while nobody uses its scores
  rlcap reward swap runs/latest --discard             let go of that shadow again

`rlcap reward status RUN` tells how far a shadow agrees with the live model."""

_ROLLBACK_DETAILS = """\
Make the reward model live again that was live before the last swap or rollback.

reads:
  RUN   the folder of a run in its PPO stage"""

_ROLLBACK_MORE = """\
examples:
  rlcap reward rollback runs/latest"""

_STATUS_DETAILS = """\
Show the reward models of a run that goes on, and what its shards are at: captions in the queue, captions in one pass
of the model, share of clips whose audio was known, time from a request to its answer, captions without a score.

reads:
  RUN   the folder of a run in its PPO stage"""

_STATUS_MORE = """\
examples:
  rlcap reward status runs/latest"""

_SCALE_DETAILS = """\
Add or remove shards of a run's reward server while it goes on. Only the clips that a shard gains or loses move; their
audio is heard again where they go. A replica takes over a part of one shard's clips.

reads:
  RUN   the folder of a run in its PPO stage"""

_SCALE_MORE = """\
examples:
  rlcap reward scale runs/latest --add
  rlcap reward scale runs/latest --replicate shard-0
  rlcap reward scale runs/latest --remove shard-1"""


def register(actions: Commands) -> None:
    """Add the four actions."""
    swap = _add(actions, "swap", _run_swap, "replace it in a live run", _SWAP_DETAILS, _SWAP_MORE)
    swap.add_argument("path", nargs="?", default="", metavar="PATH", help="the reward model that comes in")
    how = swap.add_mutually_exclusive_group()
    how.add_argument("--shadow", action="store_true", help="only let it score beside the live model")
    how.add_argument("--discard", action="store_true", help="let go of a shadow")
    _add(actions, "rollback", _run_rollback, "undo the last swap of a live run", _ROLLBACK_DETAILS, _ROLLBACK_MORE)
    _add(actions, "status", _run_status, "versions, shards and load of a live run", _STATUS_DETAILS, _STATUS_MORE)
    scale = _add(actions, "scale", _run_scale, "add or remove shards of a live run", _SCALE_DETAILS, _SCALE_MORE)
    change = scale.add_mutually_exclusive_group(required=True)
    change.add_argument("--add", action="store_true", help="start one more shard")
    change.add_argument("--replicate", metavar="SHARD", default="", help="start a replica of this shard")
    change.add_argument("--remove", metavar="SHARD", default="", help="end this shard and its replicas")


def _add(
    actions: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, details: str, more: str
) -> argparse.ArgumentParser:
    """Add an action on a run."""
    action = add_command(actions, name, run, summary=summary, details=details, more=more)
    action.add_argument("run_dir", metavar="RUN", help="run directory, such as runs/latest")
    return action


def _run_swap(arguments: argparse.Namespace) -> int:
    from rlcap import live
    from rlcap.errors import ConfigError

    if arguments.discard == bool(arguments.path):
        raise ConfigError("give either PATH, the reward model that comes in, or --discard")
    if arguments.discard:
        say(f"{live.discard_reward(arguments.run_dir)['discarded']} is no shadow any more")
        return 0
    found = live.swap_reward(arguments.run_dir, arguments.path, shadow=arguments.shadow)
    agreement = found["rank_agreement"]
    agreed = "no order to compare" if agreement is None else f"rank agreement {agreement:.3f}"
    probed = (
        f"{found['num_scores']} probe captions, spread {found['spread']:.3g}, {agreed} with {found['live_version']}"
    )
    if arguments.shadow:
        say(f"{found['candidate_version']} is a shadow: {probed}")
    else:
        say(f"{found['version']} scores from update {found['from_update']} on: {probed}")
    return 0


def _run_rollback(arguments: argparse.Namespace) -> int:
    from rlcap import live

    found = live.rollback_reward(arguments.run_dir)
    say(f"{found['version']} scores again, from update {found['from_update']} on")
    return 0


def _run_scale(arguments: argparse.Namespace) -> int:
    from rlcap import live

    if arguments.remove:
        say(f"{live.remove_shard(arguments.run_dir, arguments.remove)['name']} has left")
    else:
        say(f"{live.add_shard(arguments.run_dir, replica_of=arguments.replicate)['name']} has joined")
    return 0


def _run_status(arguments: argparse.Namespace) -> int:
    from rlcap import live

    say(_status_text(live.reward_status(arguments.run_dir)))
    return 0


def _status_text(status: Mapping[str, Any]) -> str:
    lines = [f"live         {status['version']}, after {status['num_updates']} updates"]
    if status["previous_version"]:
        lines.append(f"before       {status['previous_version']}")
    if status["shadow"]:
        shadow = status["shadow"]
        agreement = "none yet" if shadow["rank_agreement"] is None else f"{shadow['rank_agreement']:.3f}"
        lines.append(
            f"shadow       {shadow['version']}, rank agreement over {shadow['num_captions']} captions: {agreement}"
        )
        lines += [f"             {fault}" for fault in shadow["faults"]]
    lines += [f"from update  {entry['from_update']}: {entry['version']}" for entry in status["history"]]
    if status["num_replaced"]:
        lines.append(f"replaced     {status['num_replaced']} shards that hung")
    owner_of = {name: owner for owner, names in status["owners"].items() for name in names}
    rows: list[tuple[str, ...]] = [
        ("shard", "of", "process", "queue", "in a pass", "hit rate", "p50 ms", "p95 ms", "p99 ms", "failed", "cache MB")
    ]
    rows += [_shard_row(shard, owner_of.get(shard["name"], "")) for shard in status["shards"]]
    return "\n".join([*lines, "", aligned(rows)])


def _shard_row(shard: Mapping[str, Any], owner: str) -> tuple[str, ...]:
    batches, cache, load = shard["batches"], shard["cache"], shard["load"]
    lookups = cache["num_hits"] + cache["num_misses"]
    return (
        shard["name"],
        owner,
        f"{shard['process_id']}@{shard['node']}",
        str(batches["queued_size"]),
        f"{batches['total_size'] / batches['num_batches']:.1f}" if batches["num_batches"] else "–",
        f"{cache['num_hits'] / lookups:.1%}" if lookups else "–",
        *(f"{load[f'latency_{name}_ms']:.1f}" for name in ("p50", "p95", "p99")),
        str(load["num_failed"]),
        f"{cache['num_bytes'] / 1e6:.1f}",
    )
