import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray

from rlcap.algorithm import ray_session
from rlcap.algorithm.ray_session import (
    OBJECT_STORE_BYTES,
    cluster_may_be_lost,
    interrupts_held,
    object_store_room,
    without_advice,
)
from rlcap.config.cluster import ClusterConfig
from rlcap.errors import ActorLostError, RunError
from rlcap.planning.placement import Node
from rlcap.stop_signals import deaf_to_hangup


def test_only_the_advice_is_kept_off_standard_error(capfd):
    with without_advice():
        os.write(2, b"first\nActor has constructor arguments in the object store and max_restarts > 0.\nlast")
    assert capfd.readouterr().err == "first\nlast"
    os.write(2, b"as before")
    assert capfd.readouterr().err == "as before"


def test_the_object_store_has_room_for_the_versions_that_a_run_holds_and_leaves_the_machine_some(tmp_path, monkeypatch):
    for part in ("one", "two"):
        (tmp_path / part).mkdir()
        with (tmp_path / part / "model.safetensors").open("wb") as file:
            file.truncate(10**9)  # of holes
    memory, shared = SimpleNamespace(available=10**12), SimpleNamespace(free=10**12)
    monkeypatch.setattr(ray_session.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shared)
    in_step, lagging = ClusterConfig(), ClusterConfig(max_staleness=2)
    assert object_store_room(tmp_path, in_step) == OBJECT_STORE_BYTES + 2 * 2 * 10**9
    assert object_store_room(tmp_path, lagging) == OBJECT_STORE_BYTES + 4 * 2 * 10**9
    apart = replace(in_step, num_learners=1)
    assert object_store_room(tmp_path, apart) == OBJECT_STORE_BYTES + 6 * 2 * 10**9
    memory.available = 10 * 10**9
    assert object_store_room(tmp_path, in_step) == 3 * 10**9
    monkeypatch.setattr(ray_session, "SHARED_MEMORY", tmp_path)  # there on any system
    shared.free = 10**9
    assert object_store_room(tmp_path, in_step) == 10**9
    shared.free = 64 * 1024**2
    assert object_store_room(tmp_path, in_step) == OBJECT_STORE_BYTES


def interrupted(done, *, times=1, fault=None, number=signal.SIGINT):
    with interrupts_held():
        for _ in range(times):
            signal.raise_signal(number)
        if fault:
            raise fault
        done.append("whole")
    done.append("never")


def test_an_interrupt_waits_for_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(done)
    assert done == ["whole"]
    with pytest.raises(KeyboardInterrupt):  # the usual handler is back
        signal.raise_signal(signal.SIGINT)


def test_a_second_interrupt_does_not_wait():
    done = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(done, times=2)
    assert done == []


def test_a_fault_in_the_block_is_told_before_the_interrupt():
    with pytest.raises(ValueError, match="no room"):
        interrupted([], fault=ValueError("no room"))


@pytest.mark.parametrize("error", [ray.exceptions.RaySystemError("the raylet is gone"), ConnectionError("no GCS")])
def test_a_cluster_that_is_lost_is_told_in_a_sentence_that_a_supervisor_understands(error):
    with pytest.raises(ActorLostError, match=f"the Ray cluster was lost .*{error}"), cluster_may_be_lost():
        raise error


def test_a_mistake_of_ours_in_a_task_is_no_lost_cluster():
    failed = ray.exceptions.RayTaskError("score", "a traceback", TypeError("a mistake"))
    with pytest.raises(ray.exceptions.RayTaskError), cluster_may_be_lost():
        raise failed


@pytest.mark.parametrize("autoscaling", [False, True])
def test_a_cluster_that_could_never_hold_the_run_is_refused_unless_machines_may_join(monkeypatch, caplog, autoscaling):
    monkeypatch.setattr(ray_session.ray, "init", lambda **_: None)
    monkeypatch.setattr(ray_session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_session.ray, "cluster_resources", lambda: {"CPU": 8.0})
    fits = ClusterConfig(ray_address="auto", num_actors=6, autoscaling=autoscaling)
    with ray_session.ray_session(fits, num_shards=2):
        assert not caplog.records
    larger = replace(fits, actor_gpus=0.5)
    sentence = r"the run reserves 3 GPUs \(6 actors x 0.5\) and there are 0: lower cluster.num_actors"
    if autoscaling:
        with ray_session.ray_session(larger, num_shards=2):
            assert re.search(sentence, caplog.text)
    else:
        with pytest.raises(RunError, match=sentence), ray_session.ray_session(larger, num_shards=2):
            pass


def test_the_machines_of_a_running_cluster_are_those_that_live(monkeypatch):
    resources = {"CPU": 8.0, "GPU": 2.0, "memory": 5e9, "actor_node": 100.0}
    lost = {"Alive": False, "NodeManagerAddress": "10.0.0.3", "Resources": {}}
    nodes = [{"Alive": True, "NodeManagerAddress": "10.0.0.2", "Resources": resources}, lost]
    monkeypatch.setattr(ray_session.ray, "init", lambda **_: None)
    monkeypatch.setattr(ray_session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_session.ray, "nodes", lambda: nodes)
    assert ray_session.running_nodes("auto", gpu_bytes=80) == [
        Node(8.0, 5_000_000_000, num_gpus=2, gpu_bytes=80, marks=frozenset({"actor_node"}), address="10.0.0.2")
    ]


def test_an_address_where_nobody_answers_is_a_sentence(monkeypatch):
    def refuse(**_):
        raise ConnectionError("could not find any running Ray instance")

    monkeypatch.setattr(ray_session.ray, "init", refuse)
    with pytest.raises(RunError, match=r"no Ray cluster answers at cluster.ray_address=auto: could not find"):
        ray_session.running_nodes("auto", gpu_bytes=80)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_port_where_nobody_listens_is_told_at_once_and_not_after_minutes(scheme):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
    sentence = f"no Ray cluster answers at cluster.ray_address={address}: .*refused"
    with pytest.raises(RunError, match=sentence):
        ray_session.running_nodes(address, gpu_bytes=80)
    with pytest.raises(RunError, match=sentence), ray_session.ray_session(ClusterConfig(ray_address=address), 1):
        pass


def test_a_session_of_its_own_joins_no_cluster_that_happens_to_run_here(monkeypatch):
    asked = []
    monkeypatch.setattr("ray.init", lambda **settings: asked.append(settings))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 64.0})
    with ray_session.ray_session(ClusterConfig(), 1, object_store_bytes=123):
        pass
    with ray_session.ray_session(ClusterConfig(ray_address="auto"), 1):
        pass
    assert [settings["address"] for settings in asked] == ["local", "auto"]
    assert asked[0]["object_store_memory"] == 123


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_requests_to_stop_wait_as_well_however_often_they_come(number):
    def interrupt(*_):
        raise KeyboardInterrupt

    before, done = signal.signal(number, interrupt), []
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted(done, times=3, number=number)
    finally:
        signal.signal(number, before)
    assert done == ["whole"]


def test_what_ray_starts_is_deaf_to_a_terminal_that_is_closed_and_the_driver_is_not():
    blocked = [sys.executable, "-c", "import signal; print(signal.SIGHUP in signal.pthread_sigmask(0, ()))"]
    with deaf_to_hangup():
        assert subprocess.run(blocked, stdout=subprocess.PIPE, check=True).stdout == b"True\n"
    assert subprocess.run(blocked, stdout=subprocess.PIPE, check=True).stdout == b"False\n"


@pytest.mark.parametrize("raised", [Exception("The current node timed out during startup."), OSError(28, "full")])
def test_whatever_keeps_ray_from_starting_is_told_with_the_place_of_its_logs(raised, monkeypatch, tmp_path):
    def refuse(**_):
        raise raised

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray_session, "choose_ray_folder", lambda: tmp_path)
    with (
        pytest.raises(RunError, match=f"^Ray does not start here .*: its logs lie in {re.escape(str(tmp_path))}$"),
        ray_session.ray_session(ClusterConfig(), 1),
    ):
        pass
