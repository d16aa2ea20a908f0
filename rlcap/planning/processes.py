"""The processes that settings ask for, and what each reserves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rlcap.config.cluster import ClusterConfig


class Kind(Enum):
    """What a process does."""

    learner = "learner"
    actor = "actor"
    shard = "shard"


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """Processes of one kind; each reserves the same."""

    kind: Kind
    count: int
    cpus: float
    gpus: float
    count_setting: str
    """The setting that says how many there are."""
    in_driver: bool = False
    """Whether it lives in the driver, for which Ray reserves nothing."""
    nodes: str = ""
    """A mark of the nodes where they may live; empty: any node."""

    @property
    def cpus_setting(self) -> str:
        """The setting that says how many CPUs each reserves."""
        return f"cluster.{self.kind.value}_cpus"

    @property
    def nodes_setting(self) -> str:
        """The setting that says on which nodes they may live."""
        return f"cluster.{self.kind.value}_nodes"

    @property
    def gpus_setting(self) -> str:
        """The setting that says how many GPUs each reserves."""
        return f"cluster.{self.kind.value}_gpus"


def process_groups(cluster: ClusterConfig, num_shards: int) -> tuple[ProcessGroup, ...]:
    """Return learners, actors and shards; a learner in the driver counts as one."""
    return (
        ProcessGroup(
            Kind.learner,
            max(1, cluster.num_learners),
            cluster.learner_cpus,
            cluster.learner_gpus,
            "cluster.num_learners",
            in_driver=cluster.num_learners == 0,
            nodes=cluster.learner_nodes if cluster.num_learners else "",
        ),
        ProcessGroup(
            Kind.actor,
            cluster.num_actors,
            cluster.actor_cpus,
            cluster.actor_gpus,
            "cluster.num_actors",
            nodes=cluster.actor_nodes,
        ),
        ProcessGroup(
            Kind.shard,
            num_shards,
            cluster.shard_cpus,
            cluster.shard_gpus,
            "reward.num_shards",
            nodes=cluster.shard_nodes,
        ),
    )


def shortages(groups: Sequence[ProcessGroup], total_cpus: float, total_gpus: float) -> list[str]:
    """Return one sentence for each resource of which all processes together reserve more than there is."""
    groups = [group for group in groups if not group.in_driver]
    found = []
    for resource, total, each, settings in (
        ("CPUs", total_cpus, [group.cpus for group in groups], [group.cpus_setting for group in groups]),
        ("GPUs", total_gpus, [group.gpus for group in groups], [group.gpus_setting for group in groups]),
    ):
        wanted = sum(group.count * amount for group, amount in zip(groups, each, strict=True))
        if wanted > total + 1e-6:
            parts = " + ".join(
                f"{group.count} {group.kind.value}s x {amount:g}"
                for group, amount in zip(groups, each, strict=True)
                if amount
            )
            largest = max(range(len(groups)), key=lambda index: groups[index].count * each[index])
            found.append(
                f"the run reserves {wanted:g} {resource} ({parts}) and there are {total:g}: lower "
                f"{groups[largest].count_setting} or {settings[largest]}, or add machines"
            )
    return found
