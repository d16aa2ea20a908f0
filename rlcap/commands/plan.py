"""`rlcap plan`: what a run needs, and whether the machines hold it, before anything starts."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlcap.commands.parsing import Commands, add_command, add_overrides
from rlcap.commands.terminal import FAULT, aligned, complain, say

if TYPE_CHECKING:
    from rlcap.config.run import RunConfig
    from rlcap.planning.placement import Node
    from rlcap.planning.plan import ResourcePlan

_DETAILS = """\
Place a run on machines on paper: learners, actors and shards, the memory that each takes by part, what to expect of it,
and what does not fit, with the setting to change. No run is started, and no model is loaded.

reads:
  captioner.checkpoint, its config and the headers of its weights; or its size in numbers
  cluster.*, algorithm.*, sampling.*, training.* and reward.num_shards, as `rlcap train` does
  the machines of the cluster that runs at cluster.ray_address, their GPU memory apart; or --nodes and the like
  --bench FILE, figures of `rlcap bench simulate` or `rlcap bench end-to-end`

writes:
  a table on the terminal; exit code 1 where the run does not fit

Weights, optimiser, caches and logits are counted as the code keeps them; activations are an estimate."""

_MORE = """\
examples:
  rlcap plan captioner.checkpoint=qwen2-audio captioner.decoder=lora cluster.num_learners=1 cluster.learner_gpus=1 \\
      cluster.actor_gpus=1 cluster.num_actors=6 cluster.shard_gpus=0.5 --gpus 8 --gpu-memory 80 --context-tokens 780
  rlcap plan --parameters 8.2e9 --layers 32 --width 4096 --vocabulary 156032 --gpus 4 --gpu-memory 80

settings most often changed:
  captioner.decoder                  full or lora
  algorithm.microbatch_size          captions that go through the learner at once
  captioner.gradient_checkpointing   less memory for activations
  sampling.precision                 bfloat16 halves an actor's weights and cache"""


def register(commands: Commands) -> None:
    """Add the command."""
    plan = add_command(
        commands, "plan", _run, summary="what a run needs, and whether it fits", details=_DETAILS, more=_MORE
    )
    machines = plan.add_argument_group("machines")
    machines.add_argument("--nodes", type=int, default=1, metavar="N", help="machines, all alike (1)")
    machines.add_argument("--cpus", type=float, default=16, metavar="N", help="CPUs of each (16)")
    machines.add_argument("--memory", type=float, default=64, metavar="GB", help="main memory of each (64)")
    machines.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs of each (0)")
    machines.add_argument("--gpu-memory", type=float, default=80, metavar="GB", help="memory of each GPU (80)")
    models = plan.add_argument_group("models")
    models.add_argument("--parameters", type=float, metavar="N", help="weights of the captioner, such as 8.2e9")
    models.add_argument("--layers", type=int, metavar="N", help="layers of its decoder")
    models.add_argument("--width", type=int, metavar="N", help="hidden size of its decoder")
    models.add_argument("--kv-width", type=int, metavar="N", help="size of the keys of a position (its width)")
    models.add_argument("--vocabulary", type=int, metavar="N", help="tokens that it knows")
    models.add_argument("--parameter-bytes", type=int, default=4, metavar="N", help="of one weight: 4, or 2 (4)")
    models.add_argument("--context-tokens", type=int, metavar="N", help="positions before a caption: audio and prompt")
    models.add_argument("--reward-parameters", type=float, default=1.54e8, metavar="N", help="of its towers (1.54e8)")
    plan.add_argument("--bench", type=Path, metavar="FILE", help="figures of a benchmark, for the throughput")
    add_overrides(plan)


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.config.load import load_config

    config = load_config(arguments.overrides)
    nodes = _running(config, arguments) if config.cluster.ray_address else _declared(arguments)
    plan = _planned(arguments, config, nodes)
    say(_text(plan, nodes))
    if arguments.bench is not None:
        from rlcap.planning.throughput import expected_throughput

        expected = expected_throughput(arguments.bench, config.cluster.num_actors)
        say(f"\nexpected  {expected.captions_per_s:.1f} captions/s  ({expected.basis}; {arguments.bench})")
    for fault in plan.faults:
        complain(fault)
    return FAULT if plan.faults else 0


def _planned(arguments: argparse.Namespace, config: RunConfig, nodes: Sequence[Node]) -> ResourcePlan:
    from rlcap.planning.memory import Sequences
    from rlcap.planning.model_size import FLOAT32_BYTES, declared_size, read_size
    from rlcap.planning.plan import plan_run

    if config.captioner.checkpoint and arguments.parameters is None:
        size = read_size(Path(config.captioner.checkpoint))
    else:
        size = declared_size(
            parameters=arguments.parameters,
            layers=arguments.layers,
            width=arguments.width,
            kv_width=arguments.kv_width,
            vocabulary=arguments.vocabulary,
            parameter_bytes=arguments.parameter_bytes,
        )
    context = arguments.context_tokens or config.captioner.prefix_length
    sequences = Sequences(context, feature_bytes=context * size.width * FLOAT32_BYTES)
    return plan_run(config, size, sequences, int(arguments.reward_parameters * FLOAT32_BYTES), nodes)


def _running(config: RunConfig, arguments: argparse.Namespace) -> list[Node]:
    from rlcap.algorithm.ray_session import running_nodes
    from rlcap.planning.placement import GB

    return running_nodes(config.cluster.ray_address, int(arguments.gpu_memory * GB))


def _declared(arguments: argparse.Namespace) -> list[Node]:
    from rlcap.errors import ConfigError
    from rlcap.planning.placement import GB, Node

    faults = [
        f"--{name.replace('_', '-')} must be above 0, got {getattr(arguments, name):g}"
        for name in ("nodes", "cpus", "memory", "gpu_memory")
        if not getattr(arguments, name) > 0
    ]
    if arguments.gpus < 0:
        faults.append(f"--gpus must be 0 or more, got {arguments.gpus}")
    if faults:
        raise ConfigError("; ".join(faults))
    node = Node(arguments.cpus, int(arguments.memory * GB), arguments.gpus, int(arguments.gpu_memory * GB))
    return [node] * arguments.nodes


def _text(plan: ResourcePlan, nodes: Sequence[Node]) -> str:
    return f"{_memory_text(plan)}\n\n{_placement_text(plan, nodes)}\n\n{_store_text(plan, nodes)}"


def _memory_text(plan: ResourcePlan) -> str:
    from rlcap.planning.placement import GB

    parts = list(dict.fromkeys(part for memory in plan.memory.values() for part in memory.parts))
    rows: list[tuple[str, ...]] = [("GB, each", *(f"{group.count} x {group.kind.value}" for group in plan.groups))]
    for part in parts:
        cells = (plan.memory[group.kind].parts.get(part) for group in plan.groups)
        rows.append((part, *("" if cell is None else f"{cell / GB:.2f}" for cell in cells)))
    rows.append(("together", *(f"{plan.memory[group.kind].total / GB:.2f}" for group in plan.groups)))
    rows.append(("main memory", *(f"{plan.memory[group.kind].host_bytes / GB:.2f}" for group in plan.groups)))
    rows.append(("reserves", *(f"{group.cpus:g} CPU, {group.gpus:g} GPU" for group in plan.groups)))
    return aligned(rows)


def _placement_text(plan: ResourcePlan, nodes: Sequence[Node]) -> str:
    lines = []
    for number, (node, placed) in enumerate(zip(nodes, plan.placement.nodes, strict=True)):
        name = f"node {number} ({node.address})" if node.address else f"node {number}"
        on_gpus: dict[int, Counter[str]] = {}
        for kind, gpus in placed:
            for gpu in gpus:
                on_gpus.setdefault(gpu, Counter())[kind.value] += 1
        without = Counter(kind.value for kind, gpus in placed if not gpus)
        lines += [f"{name}, GPU {gpu}: {_counted(on_gpus[gpu])}" for gpu in sorted(on_gpus)]
        lines += [f"{name}, CPUs only: {_counted(without)}"] if without else []
        lines += [] if placed else [f"{name}: nothing"]
    return "\n".join(lines)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items())


def _store_text(plan: ResourcePlan, nodes: Sequence[Node]) -> str:
    from rlcap.planning.placement import GB
    from rlcap.planning.plan import OBJECT_STORE_SHARE

    room = OBJECT_STORE_SHARE * sum(node.memory_bytes for node in nodes) / GB
    parts = ", ".join(f"{part} {size / GB:.2f} GB" for part, size in plan.object_store.items())
    return f"object store  {parts}, of {room:.1f} GB over all nodes"
