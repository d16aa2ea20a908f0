"""Real runs whose terminal is closed, or whose supervisor is killed: they stop after a checkpoint, and leave none."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from rlcap.checkpoint import newest_update
from rlcap.metrics import read_metrics
from rlcap.run_directory import RunDirectory

RLCAP = Path(sys.executable).with_name("rlcap")
SETTINGS = (
    "experiment=smoke", "training.controls=false", "training.supervised=false", "tracking.tensorboard=false",
    "training.num_updates=400", "training.checkpoint_every_updates=1000",
)  # fmt: skip
WITHIN_S = 280

pytestmark = pytest.mark.timeout(600)


def close_terminal(process, terminal):
    os.close(terminal)
    process.send_signal(signal.SIGHUP)  # as the shell in that terminal does besides


def kill(process, terminal):
    process.kill()


def wait_until(condition, process):
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("flags", "end"),
    [((), close_terminal), (("--supervise",), close_terminal), (("--supervise",), kill)],
    ids=["terminal", "terminal-of-a-supervisor", "supervisor-killed"],
)
def test_a_run_that_nobody_looks_after_any_more_stops_after_a_checkpoint_and_leaves_nothing(flags, end, tmp_path):
    run = RunDirectory(tmp_path / "run")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [RLCAP, "train", *flags, *SETTINGS, f"run_dir={run.path}"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    reader = threading.Thread(target=_read_all, args=(ours,), daemon=True)
    reader.start()
    wait_until(lambda: run.metrics_journal.exists() and read_metrics(run).num_rows >= 2, process)
    offspring = psutil.Process(process.pid).children(recursive=True)
    end(process, ours)
    code = process.wait(timeout=WITHIN_S)
    assert code == (130 if end is close_terminal else -signal.SIGKILL)
    _, left = psutil.wait_procs(offspring, timeout=WITHIN_S)
    assert not left
    assert newest_update(run.checkpoints) >= 2
    assert not (run.path / "driver.lease").exists()


def _read_all(terminal):
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:
        return  # closed
