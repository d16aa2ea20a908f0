"""Where processes go, and the sentence for what does not fit."""

from dataclasses import replace

from rlcap.config.cluster import ClusterConfig
from rlcap.planning.memory import Memory
from rlcap.planning.placement import GB, Node, place
from rlcap.planning.processes import Kind, ProcessGroup, process_groups, shortages

NODE = Node(cpus=8, memory_bytes=100 * GB, num_gpus=2, gpu_bytes=80 * GB)


def group(kind, count, *, cpus=1.0, gpus=0.0, nodes=""):
    return ProcessGroup(kind, count, cpus, gpus, f"cluster.num_{kind.value}s", nodes=nodes)


def gigabytes(learner=10, actor=10, shard=10):
    sizes = {Kind.learner: learner, Kind.actor: actor, Kind.shard: shard}
    return {kind: Memory({"weights": size * GB}, host_bytes=GB) for kind, size in sizes.items()}


def test_whole_gpus_go_first_and_shares_fill_what_is_left():
    groups = [group(Kind.shard, 2, gpus=0.25), group(Kind.actor, 1, gpus=0.5), group(Kind.learner, 1, gpus=1)]
    found = place(groups, gigabytes(), [NODE])
    assert found.faults == ()
    assert found.nodes == (((Kind.learner, (0,)), (Kind.actor, (1,)), (Kind.shard, (1,)), (Kind.shard, (1,))),)


def test_a_process_of_two_gpus_gets_both():
    found = place([group(Kind.learner, 1, gpus=2)], gigabytes(), [NODE])
    assert found.nodes == (((Kind.learner, (0, 1)),),)


def test_what_finds_no_room_on_the_first_node_goes_to_the_next():
    found = place([group(Kind.actor, 3, gpus=1)], gigabytes(), [NODE, NODE])
    assert [len(node) for node in found.nodes] == [2, 1]


def test_processes_go_only_where_their_mark_is():
    marked = replace(NODE, marks=frozenset({"actor_node"}))
    others = replace(NODE, marks=frozenset())
    found = place(
        [group(Kind.actor, 9, nodes="actor_node"), group(Kind.shard, 3)], gigabytes(actor=1), [others, marked]
    )
    assert [[kind for kind, _ in node] for node in found.nodes] == [[Kind.shard] * 3, [Kind.actor] * 8]
    (fault,) = found.faults
    assert "no node with the resource 'actor_node' (cluster.actor_nodes) has room for actor 9 (8 of 9" in fault
    assert place([group(Kind.actor, 1, nodes="actor_node")], gigabytes(), [NODE]).faults == (), "nodes on paper"


def test_those_that_may_live_anywhere_leave_room_for_those_that_may_not():
    marked, other = replace(NODE, cpus=2, marks=frozenset({"shard_node"})), replace(NODE, marks=frozenset())
    found = place([group(Kind.actor, 2), group(Kind.shard, 2, nodes="shard_node")], gigabytes(), [marked, other])
    assert found.faults == ()


def test_a_mark_that_no_node_has_is_told():
    (fault,) = place([group(Kind.shard, 1, nodes="x")], gigabytes(), [replace(NODE, marks=frozenset())]).faults
    assert fault == "each shard must live on a node with the resource 'x' (cluster.shard_nodes); none has it"


def test_shares_that_add_up_to_a_gpu_are_refused_where_memory_does_not():
    found = place([group(Kind.actor, 5, gpus=0.5)], gigabytes(actor=50), [NODE])
    assert len(found.nodes[0]) == 2  # 50 GB of 80: one to a GPU
    (fault,) = found.faults
    assert "actor 3 (2 of 5 have a place)" in fault
    assert "needs 50.0 GB" in fault
    assert "lower cluster.num_actors" in fault


def test_a_process_that_no_gpu_holds_is_refused_with_figures_and_the_setting():
    memory = gigabytes() | {Kind.learner: Memory({"weights": 20 * GB, "optimiser": 70 * GB}, host_bytes=GB)}
    (fault,) = place([group(Kind.learner, 1, gpus=1)], memory, [NODE]).faults
    assert fault == (
        "each learner needs 90.0 GB of GPU memory, most of it optimiser (70.0 GB), and a GPU has 80.0 GB: "
        "set captioner.decoder=lora"
    )


def test_without_gpus_main_memory_counts():
    assert len(place([group(Kind.actor, 4)], gigabytes(actor=30), [NODE]).nodes[0]) == 3  # 31 GB each, of 100
    (fault,) = place([group(Kind.actor, 1)], gigabytes(actor=100), [NODE]).faults
    assert "needs 101.0 GB of main memory" in fault
    assert "a node has 100.0 GB" in fault


def test_gpus_that_no_node_has_are_named_by_their_setting():
    (fault,) = place([group(Kind.shard, 1, gpus=0.5)], gigabytes(), [Node(8, 100 * GB)]).faults
    assert fault == "each shard reserves 0.5 GPUs (cluster.shard_gpus) and no node has any"


def test_more_cpus_than_there_are_are_added_up_and_the_largest_part_is_named():
    groups = process_groups(ClusterConfig(num_actors=64, actor_cpus=2, num_learners=1), num_shards=8)
    assert shortages(groups, total_cpus=137, total_gpus=0) == []
    assert shortages(groups, total_cpus=100, total_gpus=0) == [
        "the run reserves 137 CPUs (1 learners x 1 + 64 actors x 2 + 8 shards x 1) and there are 100: lower "
        "cluster.num_actors or cluster.actor_cpus, or add machines"
    ]


def test_a_learner_in_the_driver_reserves_nothing():
    groups = process_groups(ClusterConfig(num_actors=2, num_learners=0, learner_cpus=4, learner_gpus=1), num_shards=2)
    assert shortages(groups, total_cpus=4, total_gpus=0) == []
