"""Requests to stop, sent to real processes."""

import os
import signal
import subprocess
import sys

import pytest

STOPPED = """
import signal, sys, time
from rlcap import stop_signals
stop_signals.ECHO_S = float(sys.argv[1])
stop_signals.interrupt_on_stop_signals()
try:
    print("begun", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    try:
        print("tidies up", flush=True)
        time.sleep(float(sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(3)
    sys.exit(130)
"""


@pytest.fixture
def start():
    """Return a function that starts a process which stops when it is asked to, and takes its time to tidy up."""
    started = []

    def begin(echo_s=60.0, tidy_s=0.5, **options):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", STOPPED, str(echo_s), str(tidy_s)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)
        started.append(process)
        assert process.stdout.readline() == "begun\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_asked_to_stop_tidies_up_however_often_it_is_told_so_at_once(start, number):
    process = start()
    for _ in range(3):
        process.send_signal(number)
    assert process.stdout.readline() == "tidies up\n"
    process.send_signal(number)
    assert process.wait(timeout=60) == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_asks_again_later_does_not_wait_for_that(start, number):
    process = start(echo_s=0.0, tidy_s=60)
    process.send_signal(number)
    assert process.stdout.readline() == "tidies up\n"
    process.send_signal(number)
    assert process.wait(timeout=30) == 3


def test_under_nohup_a_closed_terminal_is_no_reason_to_stop(start):
    process = start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
