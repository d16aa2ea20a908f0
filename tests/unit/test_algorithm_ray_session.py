import os
import signal

import pytest

from rlcap.algorithm.ray_session import interrupts_held, ray_session, without_advice
from rlcap.config.cluster import ClusterConfig


def test_only_the_advice_is_kept_off_standard_error(capfd):
    with without_advice():
        os.write(2, b"first\nActor has constructor arguments in the object store and max_restarts > 0.\nlast")
    assert capfd.readouterr().err == "first\nlast"
    os.write(2, b"as before")
    assert capfd.readouterr().err == "as before"


def interrupted(done, *, times=1, fault=None):
    with interrupts_held():
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
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


def test_a_session_of_its_own_joins_no_cluster_that_happens_to_run_here(monkeypatch):
    asked = []
    monkeypatch.setattr("ray.init", lambda **settings: asked.append(settings))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    with ray_session(ClusterConfig(), 1, object_store_bytes=123):
        pass
    with ray_session(ClusterConfig(ray_address="ray://head:10001"), 1):
        pass
    assert [settings["address"] for settings in asked] == ["local", "ray://head:10001"]
    assert asked[0]["object_store_memory"] == 123
