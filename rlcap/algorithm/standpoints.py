"""Where the processes of a run stand: state, node and stack of every Ray actor that its driver has started."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import ray
from ray._private import state as ray_state  # the one place that reads it: the public API needs Ray's dashboard
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlcap.stacks import stack_of

NODE_TIMEOUT_S = 20.0
"""Longest wait for a node to say where its processes stand."""


def standpoints(names: Mapping[str, str]) -> list[str]:
    """Describe every actor of this driver; `names` holds what to call them, by Ray's number of the actor."""
    entries = _actors(names)
    stacks = _stacks([entry for entry in entries.values() if entry["State"] == "ALIVE"])
    return [
        f"{names.get(number, entry['ActorClassName'])} (process {entry['Pid']} at {entry['Address']['IPAddress']}, "
        f"{entry['State'].lower()}): {stacks.get(number, 'it is not running')}"
        for number, entry in entries.items()
    ]


def _actors(names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return Ray's entries of this driver's actors; the dead ones only where somebody still counts on them."""
    job = ray.get_runtime_context().get_job_id()
    entries: dict[str, dict[str, Any]] = ray_state.actors()
    mine = {number: entry for number, entry in entries.items() if entry["JobID"] == job}
    return {number: entry for number, entry in mine.items() if entry["State"] != "DEAD" or number in names}


def _stacks(entries: list[dict[str, Any]]) -> dict[str, str]:
    """Ask each node for the stacks of its processes."""
    of_node: dict[str, dict[str, int]] = defaultdict(dict)
    for entry in entries:
        of_node[entry["Address"]["NodeID"]][entry["ActorID"]] = entry["Pid"]
    calls = {_stacks_here.options(scheduling_strategy=_on(node)).remote(pids): pids for node, pids in of_node.items()}
    answered, _ = ray.wait(list(calls), num_returns=len(calls), timeout=NODE_TIMEOUT_S) if calls else ([], [])
    found = {number: "its node does not answer" for pids in calls.values() for number in pids}
    for call in answered:
        try:
            found |= ray.get(call)
        except ray.exceptions.RayError as error:
            found |= dict.fromkeys(calls[call], f"its node cannot be asked: {type(error).__name__}")
    return found


@ray.remote(num_cpus=0, max_retries=0)
def _stacks_here(process_ids: Mapping[str, int]) -> dict[str, str]:
    return {number: stack_of(process_id) for number, process_id in process_ids.items()}


def _on(node_id: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id, soft=False)
