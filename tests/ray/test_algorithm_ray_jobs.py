"""A run through Ray Jobs on a cluster of three nodes: followed, let go of, followed again; and what goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from rlcap.algorithm.ray_session import ray_session
from rlcap.config.cluster import ClusterConfig
from rlcap.errors import RunError

pytest.importorskip("aiohttp", reason="rlcap[jobs] is not installed: run `make install`")

RLCAP = Path(sys.executable).with_name("rlcap")
QUICK = ("training.controls=false", "training.supervised=false", "tracking.tensorboard=false", "training.num_updates=1")


@pytest.fixture(scope="module")
def cluster():
    """A head for the driver, and a node each for actors and shards: its address, and the nodes by mark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{RLCAP.parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("OMP_NUM_THREADS", "1")
        # The head's agent takes jobs, and would have the port that Ray sessions of other tests have too.
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_agent_listen_port": None}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        try:
            marked = {
                mark: nodes.add_node(num_cpus=1, resources={mark: 1}).node_id for mark in ("actor_node", "shard_node")
            }
            yield f"http://{nodes.webui_url}", marked
        finally:
            nodes.shutdown()


@pytest.fixture(scope="module")
def jobs(cluster):
    from rlcap.algorithm.ray_jobs import RayJobs

    return RayJobs(cluster[0], timeout_s=60)


def nodes_of_actors(jobs):
    """Return the nodes on which actors and shards were, by class."""
    from ray.util.state import list_actors

    actors = list_actors(address=jobs.address)
    return {actor.class_name: actor.node_id for actor in actors if "Supervisor" not in actor.class_name}


def test_a_run_goes_on_when_nobody_follows_it_and_ends_where_it_was_sent(cluster, jobs, tmp_path):
    command = [
        *(RLCAP, "train", "cluster=job", f"cluster.job_address={jobs.address}", "experiment=smoke", *QUICK),
        *(
            f"run_dir={tmp_path / 'run'}",
            f"cache_dir={tmp_path / 'cache'}",
            "cluster.actor_gpus=0",
            "cluster.shard_gpus=0",
        ),
        *("cluster.num_actors=1", "cluster.actor_nodes=actor_node", "cluster.shard_nodes=shard_node"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        said = ""
        while "run directory" not in said:
            line = following.stdout.readline()
            assert line, said + following.stderr.read()
            said += line
        following.send_signal(signal.SIGINT)
        _, complaint = following.communicate(timeout=30)
    job = said.split()[0]
    assert following.returncode == 130
    assert f"rlcap: {job} goes on without us: follow it with `ray job logs --follow" in complaint
    assert "Traceback" not in complaint

    log = []
    assert jobs.follow(job, log.append) == 0, "".join(log)
    assert "Done. The report is" in "".join(log)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["failed_scores"] == 0
    assert f"run_dir: {tmp_path / 'run'}\n" in (tmp_path / "run/config.yaml").read_text()
    places, marked = nodes_of_actors(jobs), cluster[1]
    assert (places["CaptionEnvRunner"], places["ShardActor"]) == (marked["actor_node"], marked["shard_node"])


def test_a_command_that_fails_there_or_is_stopped_is_no_success_here(jobs):
    failing = jobs.submit(["sh", "-c", "echo three faults; exit 3"])
    stopped = jobs.submit(["sleep", "600"])
    log = []
    assert jobs.follow(failing, log.append) == 3
    assert "three faults\n" in "".join(log)

    subprocess.run(
        [RLCAP.with_name("ray"), "job", "stop", "--no-wait", f"--address={jobs.address}", stopped], check=True
    )
    began = time.monotonic()
    with pytest.raises(RunError, match=f"{stopped} is STOPPED"):
        jobs.follow(stopped, log.append)
    assert time.monotonic() - began < 60


def test_a_run_on_this_machine_joins_no_cluster_that_happens_to_run_here(cluster):
    with ray_session(ClusterConfig(num_actors=1), num_shards=1):
        assert not set(ray.cluster_resources()) & set(cluster[1])
