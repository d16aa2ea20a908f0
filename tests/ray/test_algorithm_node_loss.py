"""A node killed for good, with caption actors, a shard and rollouts on it that the learner has not had yet."""

import pytest
import ray
import tiny_run
from ray._private import state as ray_state
from ray.cluster_utils import Cluster
from tiny_run import build_reward, lay_out_run, plan_actor

from reward_server.group import RewardServer
from rlcap.algorithm.caption_ppo import build_algorithm
from rlcap.algorithm.settings import RunPlan
from rlcap.config.algorithm import PPOConfig
from rlcap.config.cluster import ClusterConfig
from rlcap.config.reward import RewardConfig
from rlcap.config.training import TrainingConfig

TRAINING = TrainingConfig(clips_per_batch=4, batches_per_update=2, samples_per_clip=2)
CLUSTER = ClusterConfig(num_actors=2, actor_cpus=0.5, shard_cpus=0.5)


@pytest.fixture
def cluster():
    """A head without room, for the driver, and two nodes of which either could hold the whole run."""
    ray.cloudpickle.register_pickle_by_value(tiny_run)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 10**8},
    )
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def nodes_of(class_name):
    return {
        entry["Address"]["NodeID"] for entry in ray_state.actors().values() if entry["ActorClassName"] == class_name
    }


def test_a_run_goes_on_when_a_node_dies_with_actors_a_shard_and_rollouts(cluster, tmp_path, make_captioner):
    # With spectrograms as features rollouts are too large to travel with the answer: they stay on their node.
    parts = lay_out_run(tmp_path, make_captioner(seed=1, freeze_encoder=False), num_clips=8)
    doomed = cluster.add_node(num_cpus=2, object_store_memory=10**8)
    server = RewardServer(build_reward(), RewardConfig(num_shards=1, shard_timeout_s=20), CLUSTER)
    server.wait_until_ready()
    actor = plan_actor(parts, TRAINING.samples_per_clip, max_new_tokens=6)
    ppo = PPOConfig(learning_rate=1e-3, num_epochs=1)
    algorithm = build_algorithm(RunPlan(actor, server.client(), ppo, TRAINING, CLUSTER, 0))
    assert nodes_of("CaptionEnvRunner") == nodes_of("ShardActor") == {doomed.node_id}
    cluster.add_node(num_cpus=2, object_store_memory=10**8)
    collect = algorithm._pipeline.collect

    def collect_and_lose_the_node(update):
        batches = collect(update)
        if doomed in cluster.worker_nodes and update == 1:
            cluster.remove_node(doomed, allow_graceful=False)
        return batches

    algorithm._pipeline.collect = collect_and_lose_the_node
    try:
        used = []
        for _ in range(4):
            algorithm.train()
            metrics = algorithm.last_report.metrics
            assert metrics["rollout/failed"] == 0
            used += [batch.batch.batch_index for batch in algorithm.last_report.batches]
        assert used == list(range(8)), "each once, none left out"
        assert algorithm.learner_group._learner.ppo_update._ledger.state_dict() == used
        assert metrics["actors/lost_batches"] >= 2, "those that lay on the node"
    finally:
        algorithm.stop()
        server.stop()
