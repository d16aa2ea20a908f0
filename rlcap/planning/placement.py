"""Which process goes where: Ray gives each what it reserves of a node; memory decides whether that is enough.

Ray's own choice may differ where several nodes have room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlcap.planning.memory import Memory
from rlcap.planning.processes import Kind, ProcessGroup

ROUNDING = 1e-6
GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Node:
    """One machine."""

    cpus: float
    memory_bytes: int
    num_gpus: int = 0
    gpu_bytes: int = 0
    """Memory of each GPU."""
    marks: frozenset[str] | None = None
    """Ray resources by which processes may ask for this node; None: those that are asked for."""
    address: str = ""
    """Of a machine that there is."""

    def admits(self, group: ProcessGroup) -> bool:
        """Tell whether the settings let such processes live here."""
        return not group.nodes or self.marks is None or group.nodes in self.marks


@dataclass(slots=True)
class _Room:
    """What is left of a node, and what was put there."""

    cpus: float
    host_bytes: int
    gpus: list[float]
    gpu_bytes: list[int]
    placed: list[tuple[Kind, tuple[int, ...]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where every process goes, and what does not fit."""

    nodes: tuple[tuple[tuple[Kind, tuple[int, ...]], ...], ...]
    """For each node its processes, and the GPUs that each of them has or shares."""
    faults: tuple[str, ...]


def place(groups: Sequence[ProcessGroup], memory: Mapping[Kind, Memory], nodes: Sequence[Node]) -> Placement:
    """Place the processes that reserve most GPU first, then those with a mark, each on the first node with room."""
    rooms = [
        _Room(node.cpus, node.memory_bytes, [1.0] * node.num_gpus, [node.gpu_bytes] * node.num_gpus) for node in nodes
    ]
    faults = []
    for group in sorted(groups, key=lambda each: (each.gpus, each.nodes != "", each.cpus), reverse=True):
        placed = 0
        admitting = [room for room, node in zip(rooms, nodes, strict=True) if node.admits(group)]
        while placed < group.count and any(_take(room, group, memory[group.kind]) for room in admitting):
            placed += 1
        if placed < group.count:
            faults.append(_fault(group, placed, memory[group.kind], [node for node in nodes if node.admits(group)]))
    return Placement(tuple(tuple(room.placed) for room in rooms), tuple(faults))


def _take(room: _Room, group: ProcessGroup, memory: Memory) -> bool:
    """Put one process into a room; False where it does not fit."""
    chosen = _choose_gpus(room, group, memory)
    host_bytes = memory.host_bytes + (0 if group.gpus else memory.total)
    if chosen is None or room.cpus + ROUNDING < group.cpus or room.host_bytes < host_bytes:
        return False
    room.cpus -= group.cpus
    room.host_bytes -= host_bytes
    for gpu in chosen:
        room.gpus[gpu] -= min(1.0, group.gpus)
        room.gpu_bytes[gpu] -= memory.total
    room.placed.append((group.kind, chosen))
    return True


def _choose_gpus(room: _Room, group: ProcessGroup, memory: Memory) -> tuple[int, ...] | None:
    """The GPUs for one process: part of one, or whole ones, of which it fills the first; None where there are none."""
    if not group.gpus:
        return ()
    share, number = min(1.0, group.gpus), max(1, round(group.gpus))
    free = [
        gpu for gpu, left in enumerate(room.gpus) if left + ROUNDING >= share and room.gpu_bytes[gpu] >= memory.total
    ]
    return tuple(free[:number]) if len(free) >= number else None


def _fault(group: ProcessGroup, placed: int, memory: Memory, nodes: Sequence[Node]) -> str:
    """Say why the next process of a group has no place, and what to change."""
    name = group.kind.value
    if not nodes:
        return f"each {name} must live on a node with the resource {group.nodes!r} ({group.nodes_setting}); none has it"
    beside = f" ({placed} of {group.count} have a place)"
    gpu_bytes = max((node.gpu_bytes for node in nodes if node.num_gpus), default=0)
    if group.gpus and not gpu_bytes:
        return f"each {name} reserves {group.gpus:g} GPUs ({group.gpus_setting}) and no node {_marked(group)}has any"
    if group.gpus and memory.total > gpu_bytes:
        return (
            f"each {name} needs {memory.total / GB:.1f} GB of GPU memory, most of it {memory.largest_part} "
            f"({memory.parts[memory.largest_part] / GB:.1f} GB), and a GPU has {gpu_bytes / GB:.1f} GB: "
            f"{REMEDIES[memory.largest_part]}"
        )
    if not group.gpus and memory.total + memory.host_bytes > max(node.memory_bytes for node in nodes):
        return (
            f"each {name} needs {(memory.total + memory.host_bytes) / GB:.1f} GB of main memory, most of it "
            f"{memory.largest_part}, and a node has {max(node.memory_bytes for node in nodes) / GB:.1f} GB: "
            f"{REMEDIES[memory.largest_part]}"
        )
    reserves = f"{group.cpus:g} CPUs ({group.cpus_setting}) and {group.gpus:g} GPUs ({group.gpus_setting})"
    return (
        f"no node {_marked(group)}has room for {name} {placed + 1}{beside}, which reserves {reserves} and needs "
        f"{memory.total / GB:.1f} GB: lower {group.count_setting} or what the others reserve, or add machines"
    )


def _marked(group: ProcessGroup) -> str:
    """Say which nodes are meant, where it is not all of them."""
    return f"with the resource {group.nodes!r} ({group.nodes_setting}) " if group.nodes else ""


REMEDIES = {
    "weights": "set sampling.precision=bfloat16 for actors, take a smaller captioner, or larger GPUs",
    "gradients": "set captioner.decoder=lora",
    "optimiser": "set captioner.decoder=lora",
    "reference": "set captioner.decoder=lora: the reference is then the policy with its adapters off",
    "activations": "lower algorithm.microbatch_size, or set captioner.gradient_checkpointing=true",
    "logits": "lower algorithm.microbatch_size for learners, or raise training.batches_per_update for actors",
    "KV cache": "raise training.batches_per_update, so that an actor captions fewer clips at once",
    "reward towers": "take a smaller reward model, or larger GPUs",
    "libraries": "give fewer processes a share of each GPU",
}
