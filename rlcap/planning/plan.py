"""A run on paper: placement, memory by part, and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlcap.config.run import RunConfig
from rlcap.planning.memory import Memory, Sequences, memory_of, object_store_bytes
from rlcap.planning.model_size import CaptionerSize
from rlcap.planning.placement import GB, Node, Placement, place
from rlcap.planning.processes import Kind, ProcessGroup, process_groups, shortages

OBJECT_STORE_SHARE = 0.3
"""Of a node's memory, which Ray takes for its object store by default."""


@dataclass(frozen=True, slots=True)
class ResourcePlan:
    """What a run needs, and where it goes."""

    groups: tuple[ProcessGroup, ...]
    memory: dict[Kind, Memory]
    """Of one process of each kind."""
    object_store: dict[str, int]
    """Bytes in Ray's object store at most, by part."""
    placement: Placement
    faults: tuple[str, ...]
    """Why the run cannot start; empty where it can."""


def plan_run(
    config: RunConfig, size: CaptionerSize, sequences: Sequences, reward_bytes: int, nodes: Sequence[Node]
) -> ResourcePlan:
    """Plan a run with these settings on these nodes."""
    groups = process_groups(config.cluster, config.reward.num_shards)
    memory = {group.kind: memory_of(group.kind, config, size, sequences, reward_bytes) for group in groups}
    store = object_store_bytes(config, size, sequences)
    faults = shortages(groups, sum(node.cpus for node in nodes), sum(node.num_gpus for node in nodes))
    placement = place(groups, memory, nodes)
    faults = faults or list(placement.faults)
    room = OBJECT_STORE_SHARE * sum(node.memory_bytes for node in nodes)
    if sum(store.values()) > room:
        faults.append(
            f"rollouts and weights under way take up to {sum(store.values()) / GB:.1f} GB of Ray's object store, and "
            f"it holds {room / GB:.1f} GB: lower cluster.max_staleness, or training.clips_per_batch"
        )
    return ResourcePlan(groups, memory, store, placement, tuple(faults))
