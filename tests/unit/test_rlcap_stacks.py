"""Processes that compute, were stopped, or have not started: what is said of each."""

import os
import signal
import subprocess
import sys

import pytest

from rlcap.stacks import stack_of

WAITING = """
import time
from rlcap.stacks import show_stack_on_signal
show_stack_on_signal()
def wait_for_godot():
    print("ready", flush=True)
    time.sleep(60)
wait_for_godot()
"""
UNPREPARED = "import time; print('ready', flush=True); time.sleep(60)"


@pytest.fixture
def start(tmp_path):
    processes = []

    def start(code):
        with (tmp_path / "errors").open("wb") as errors:
            process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=errors)
        processes.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_process_that_waits_shows_its_stack_and_lives_on(start):
    process = start(WAITING)
    for _ in range(2):
        assert "in wait_for_godot" in stack_of(process.pid)
    assert process.poll() is None


def test_a_stopped_process_is_called_stopped_and_one_that_has_ended_ended(start):
    process = start(WAITING)
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert "stopped by a signal" in stack_of(process.pid)
    process.kill()
    process.wait()
    assert stack_of(process.pid) == "it has ended"


def test_a_process_that_does_not_know_the_signal_is_left_alone(start):
    process = start(UNPREPARED)
    assert "has not started far enough" in stack_of(process.pid)
    assert process.poll() is None
