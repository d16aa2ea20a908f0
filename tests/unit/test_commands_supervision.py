"""The parent of a job that dies, with jobs that only pretend: they follow a script, one line a start."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rlcap.commands import supervision
from rlcap.commands.main import run as rlcap
from rlcap.config.run import RunConfig
from rlcap.run_directory import create_run_directory

JOB = """
import json, os, pathlib, signal, subprocess, sys, time
run = pathlib.Path(sys.argv[-1].removeprefix("run_dir="))
script = run.with_name("script")
line, *rest = script.read_text().splitlines()
script.write_text("\\n".join(rest))
with run.with_name("starts").open("a") as starts:
    starts.write(json.dumps(sys.argv[1:]) + "\\n")
def checkpoint(update):
    (run / f"checkpoints/update-{update:06d}").mkdir(parents=True)
def die():
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    run.with_name("orphan").write_text(str(orphan.pid))
    os.kill(os.getpid(), signal.SIGKILL)
def stop(number, _):
    run.with_name("stopped").write_text(signal.Signals(number).name)
    sys.exit(130)
def wait():
    from rlcap.stop_signals import stop_with_supervisor
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    stop_with_supervisor()
    run.with_name("waits").touch()
    time.sleep(60)
eval(line)
"""
DELAYS = ["cluster.restart_delay_s=0.01", "cluster.max_restarts=2"]


@pytest.fixture
def supervise(tmp_path, monkeypatch):
    """Return a function that supervises jobs that follow a script; returns the exit code and what they were given."""
    monkeypatch.setattr(supervision, "_JOB", JOB)
    monkeypatch.setattr(supervision, "GRACE_S", 0.2)

    def make(*script, begun=True):
        (tmp_path / "script").write_text("\n".join(script))
        if begun:
            create_run_directory(RunConfig(run_dir=str(tmp_path / "run")))
        code = rlcap(["train", "--supervise", "seed=0", *DELAYS, f"run_dir={tmp_path / 'run'}"])
        return code, [json.loads(line) for line in (tmp_path / "starts").read_text().splitlines()]

    return make


def test_a_job_that_is_killed_is_resumed_and_what_it_left_behind_is_ended(supervise, tmp_path):
    code, starts = supervise("die()", "sys.exit(75)", "sys.exit(0)")
    assert code == 0
    run_dir = f"run_dir={tmp_path / 'run'}"
    assert starts == [["train", "seed=0", *DELAYS, run_dir], *2 * [["train", "resume=true", run_dir]]]
    assert not psutil.pid_exists(int((tmp_path / "orphan").read_text())) or zombie(tmp_path)


def zombie(tmp_path):
    return psutil.Process(int((tmp_path / "orphan").read_text())).status() == psutil.STATUS_ZOMBIE


def test_a_job_that_died_before_its_folder_was_there_is_given_the_same_again(supervise):
    code, starts = supervise("sys.exit(75)", "sys.exit(0)", begun=False)
    assert code == 0
    assert starts[0] == starts[1]


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_faults_wrong_settings_and_ctrl_c_are_no_reason_to_start_again(code, supervise):
    assert supervise(f"sys.exit({code})")[0] == code


def test_a_job_that_does_not_get_on_is_given_up_with_a_sentence(supervise, capfd, tmp_path):
    code, starts = supervise("checkpoint(1), die()", "checkpoint(2), sys.exit(75)", "die()", "die()")
    assert code == 128 + signal.SIGKILL
    assert len(starts) == 4, "the restarts count anew after a checkpoint"
    complaint = capfd.readouterr().err.splitlines()[-1]
    assert complaint.startswith("rlcap: the job was killed by SIGKILL (out of memory, perhaps), and 2 restarts")
    assert complaint.endswith(f"go on with `rlcap train --supervise resume=true run_dir={tmp_path / 'run'}`")


def test_settings_with_faults_are_told_before_anything_is_started(capfd):
    assert rlcap(["train", "--supervise", "no.such=1"]) == 2
    assert capfd.readouterr().err.startswith("rlcap: ")


@pytest.fixture
def start_supervisor(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Return a function that starts a supervisor, with a job that waits until it is asked to stop."""
    (tmp_path / "script").write_text("wait()")
    parent = (
        "import sys; from rlcap.commands import supervision; from rlcap.commands.main import main; "
        f"supervision._JOB = {JOB!r}; main()"
    )
    command = [sys.executable, "-c", parent, "train", "--supervise", f"run_dir={tmp_path / 'run'}"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    deadline = time.monotonic() + 60
    while not (tmp_path / "waits").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_is_handed_on_and_ends_both(number, start_supervisor, tmp_path):
    start_supervisor.send_signal(number)
    assert start_supervisor.wait(timeout=30) == 130
    assert len((tmp_path / "starts").read_text().splitlines()) == 1
    assert not (tmp_path / "run").exists(), "an empty folder is of no run"


def test_the_job_of_a_supervisor_that_is_killed_stops_as_well(start_supervisor, tmp_path):
    [job] = psutil.Process(start_supervisor.pid).children()
    start_supervisor.kill()
    start_supervisor.wait()
    psutil.wait_procs([job], timeout=30)
    assert not job.is_running()
    assert (tmp_path / "stopped").read_text() == "SIGTERM"
