"""A supervised run of which the learner and the driver are killed for real: it ends as if nothing had happened."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from rlcap.checkpoint import newest_update
from rlcap.metrics import read_metrics
from rlcap.pipeline.rollout_ledger import check_ledger, read_ledger
from rlcap.run_directory import RunDirectory

BY_CHANCE = ("time/", "reward_server/", "checkpoint/", "actors/present", "actors/doubled_batches")
"""Metrics of the clock and of processes begin so."""
RLCAP = Path(sys.executable).with_name("rlcap")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
NUM_UPDATES = int(os.environ.get("RLCAP_UPDATES_UNDER_KILLS", "40"))
"""More of them make a longer trial."""
SETTINGS = (
    "experiment=smoke", "training.controls=false", "training.supervised=false", "tracking.tensorboard=false",
    "cluster.num_learners=1", "cluster.learner_cpus=0.5", "cluster.restart_delay_s=0.1",
    "training.checkpoint_every_updates=3", f"training.num_updates={NUM_UPDATES}",
)  # fmt: skip
LEARNER = "_WrappedExecutable"
"""What RLlib calls the process of a learner."""
FINISHES_WITHIN_S = 280
PAGE = Path(__file__).parents[2] / "docs/when-something-fails.md"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("supervised")


def start(workplace, name, *flags):
    run = RunDirectory(workplace / "runs" / name)
    command = [RLCAP, "train", *flags, *SETTINGS, f"run_dir={run.path}"]
    process = subprocess.Popen(command, cwd=workplace, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
    reader.start()
    return run, process, said


def wait_for(condition, process, said):
    deadline = time.monotonic() + FINISHES_WITHIN_S / 2
    while not condition():
        assert process.poll() is None, "".join(said)
        assert time.monotonic() < deadline, "".join(said)
        time.sleep(0.02)


def kill_a_process_of(driver, name):
    """Kill what a driver has started, found among its own offspring."""
    [found] = [child for child in driver.children(recursive=True) if name in " ".join(child.cmdline())]
    found.kill()


def driver_of(process):
    [driver] = psutil.Process(process.pid).children()
    return driver


def without_clock(run):
    """Metrics by name, without those that depend on time or on processes."""
    return {
        name: values
        for name, values in read_metrics(run).to_pydict().items()
        if not name.startswith(BY_CHANCE) and not name.endswith(("_s", "_ms"))
    }


def test_a_supervised_run_of_which_learner_and_driver_are_killed_ends_as_if_nothing_had_happened(workplace):
    whole, process, said = start(workplace, "whole")
    assert process.wait(timeout=FINISHES_WITHIN_S) == 0, "".join(said)

    run, process, said = start(workplace, "killed", "--supervise")
    wait_for(lambda: newest_update(run.checkpoints) >= 3, process, said)
    kill_a_process_of(driver_of(process), LEARNER)
    wait_for(lambda: newest_update(run.checkpoints) >= 9, process, said)
    driver = driver_of(process)
    offspring = driver.children(recursive=True)
    time.sleep(torch.rand(1, generator=torch.Generator().manual_seed(os.getpid())).item() / 2)
    os.kill(driver.pid, signal.SIGKILL)
    psutil.wait_procs([driver])
    reached = newest_update(run.checkpoints)
    wait_for(lambda: newest_update(run.checkpoints) > reached, process, said)
    _, alive = psutil.wait_procs(offspring, timeout=0)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE], "what a dead driver started is ended"
    os.kill(driver_of(process).pid, signal.SIGKILL)
    assert process.wait(timeout=FINISHES_WITHIN_S) == 0, "".join(said)

    text = "".join(said)
    assert "Traceback" not in text
    assert "the run goes on from its last checkpoint, with new actors and a new learner" in text
    assert (
        len(re.findall(r"the job was killed by SIGKILL .*; restart 1 in 0 s, from the checkpoint of update", text)) == 2
    )
    found, expected = without_clock(run), without_clock(whole)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    final = f"update-{NUM_UPDATES:06d}/captioner"
    for file in (whole.checkpoints / final).rglob("*.safetensors"):
        assert file.read_bytes() == (run.checkpoints / final / file.relative_to(whole.checkpoints / final)).read_bytes()

    report = check_ledger(read_ledger(run))
    assert (report.num_updates, report.num_batches) == (NUM_UPDATES, 2 * NUM_UPDATES)
    assert report.num_epochs == 4 * NUM_UPDATES // 24
    assert read_ledger(run).equals(read_ledger(whole))


def test_every_command_of_the_page_runs_as_written(workplace):
    """In one shell, and a folder that has its stages already."""
    lines = [line[4:] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
    script = "\n".join(["set -eu -o pipefail", *lines])
    path = f"{RLCAP.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=workplace,
        env={**ENVIRONMENT, "PATH": path},
        capture_output=True,
        text=True,
        timeout=FINISHES_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "the job was killed by SIGKILL" in done.stderr
    assert re.findall(r"updates +(\d+)", done.stdout) == ["100", "104"]
    assert re.findall(r"finished epochs.* (\d+)", done.stdout) == ["16", "17"]
