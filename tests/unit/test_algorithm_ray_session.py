import os
import signal

import pytest
import ray

from rlcap.algorithm.ray_session import cluster_may_be_lost, interrupts_held, without_advice
from rlcap.errors import ActorLostError


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


@pytest.mark.parametrize("error", [ray.exceptions.RaySystemError("the raylet is gone"), ConnectionError("no GCS")])
def test_a_cluster_that_is_lost_is_told_in_a_sentence_that_a_supervisor_understands(error):
    with pytest.raises(ActorLostError, match=f"the Ray cluster was lost .*{error}"), cluster_may_be_lost():
        raise error


def test_a_mistake_of_ours_in_a_task_is_no_lost_cluster():
    failed = ray.exceptions.RayTaskError("score", "a traceback", TypeError("a mistake"))
    with pytest.raises(ray.exceptions.RayTaskError), cluster_may_be_lost():
        raise failed
