import asyncio

import pytest

from rlcap.commands.cluster_job import command_there, is_for_a_cluster, run_on_cluster
from rlcap.commands.train import settle_config
from rlcap.config.cluster import placed_on
from rlcap.config.load import load_config
from rlcap.errors import ConfigError, RunError

SHARED = ("run_dir=/shared/run", "cache_dir=/shared/cache")


def test_only_a_job_address_sends_a_run_away():
    assert is_for_a_cluster(["cluster=job"])
    assert is_for_a_cluster(["cluster.job_address=https://head:8265"])
    assert not is_for_a_cluster(["cluster=ray", "seed=1"])
    assert not is_for_a_cluster(["cluster=job", "cluster.job_address=''"])
    assert not is_for_a_cluster([])


def test_the_command_runs_where_it_is_sent_with_the_same_settings():
    given = ["cluster=job", "cluster.job_address=http://head:1", "seed=3", *SHARED]
    program, command, *overrides = command_there(given, resume=False, supervise=False)
    assert (program, command) == ("rlcap", "train")
    assert not is_for_a_cluster(overrides)
    here, there = load_config(given), settle_config(overrides)
    assert there.cluster.ray_address == "auto"
    assert there.cluster.actor_gpus == here.cluster.actor_gpus == 0.5
    assert (there.seed, there.run_dir) == (3, "/shared/run")


def test_a_resumed_run_keeps_the_cluster_of_its_folder():
    given = ["resume=true", "cluster=job", "run_dir=/shared/run", "cluster.num_actors=3"]
    command = command_there(given, resume=True, supervise=False)
    assert "cluster=job" not in command
    assert {"resume=true", "run_dir=/shared/run", "cluster.num_actors=3"} <= set(command)


@pytest.mark.parametrize(
    ("overrides", "faults"),
    [
        (["experiment=smoke"], ["run_dir", "cache_dir"]),
        ([*SHARED, "data.root=recordings", "reward.checkpoint=reward"], ["data.root", "reward.checkpoint"]),
        (["resume=true"], ["run_dir"]),
        (["resume=true", "run_dir=runs/latest"], ["run_dir"]),
    ],
)
def test_folders_that_mean_nothing_on_a_cluster_are_refused(overrides, faults):
    with pytest.raises(ConfigError) as refused:
        run_on_cluster(["cluster=job", *overrides], supervise=False)
    for key in faults:
        assert f"{key} must be an absolute path that every node of the cluster sees" in str(refused.value)
    assert str(refused.value).count("absolute path") == len(faults)


def test_wrong_settings_are_told_before_anything_is_sent():
    with pytest.raises(ConfigError, match="did you mean num_actors"):
        run_on_cluster(["cluster=job", *SHARED, "cluster.num_actor=3"], supervise=False)
    with pytest.raises(ConfigError, match="job_address must begin with http"):
        is_for_a_cluster(["cluster.job_address=head:8265"])


def test_a_dashboard_that_does_not_answer_is_told_in_a_sentence():
    pytest.importorskip("aiohttp", reason="rlcap[jobs] is not installed: run `make install`")
    with pytest.raises(RunError, match=r"no Ray dashboard answers at http://127.0.0.1:9 .* port forwarded"):
        run_on_cluster(["cluster.job_address=http://127.0.0.1:9", *SHARED], supervise=False)


class FlakyServer:
    """A log that breaks off after each of its parts, and begins anew with every connection."""

    def __init__(self, *parts: str):
        self._parts = parts
        self._connections = 0

    async def tail_job_logs(self, job: str):
        self._connections += 1
        for part in self._parts[: self._connections]:
            yield part
        if self._connections < len(self._parts):
            raise RuntimeError("WebSocket connection closed unexpectedly")


def test_each_part_of_a_log_is_written_once_however_often_the_connection_breaks():
    pytest.importorskip("aiohttp", reason="rlcap[jobs] is not installed: run `make install`")
    from rlcap.algorithm.ray_jobs import JobLog

    written: list[str] = []
    log = JobLog(FlakyServer("one\ntwo\n", "three\n", "four\n"), "job", written.append)
    for _ in range(4):
        asyncio.run(log.tail())
    assert "".join(written) == "one\ntwo\nthree\nfour\n"


def test_a_mark_asks_for_a_trace_of_a_resource_so_that_a_node_has_room_for_many():
    assert placed_on("") == {}
    assert placed_on("actor_node") == {"actor_node": 0.001}
