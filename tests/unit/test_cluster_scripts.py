"""The shell scripts of a cluster, run for real among stand-ins for Slurm, Ray and rlcap."""

import os
import shutil
import signal
import stat
import subprocess
import time
from argparse import ArgumentParser
from pathlib import Path

import pytest

from rlcap.config.load import load_config

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
START = CLUSTER / "start-or-resume.sh"
SBATCH = CLUSTER / "slurm/rlcap.sbatch"
GPU = Path(__file__).parents[1] / "gpu/run.sh"

STAND_INS = {
    # Answers, and notes what it was asked.
    "scontrol": """
        echo "scontrol $*" >>"$NOTES"
        if [ "$1" = show ]; then printf 'node-a\\nnode-b\\nnode-c\\n'; fi
    """,
    # Runs the command behind its options here.
    "srun": """
        echo "srun $*" >>"$NOTES"
        while [[ "$1" == --* ]]; do shift; done
        exec "$@"
    """,
    "hostname": "echo 10.0.0.7 192.168.0.7",
    # Answers once there is a head.
    "ray": """
        if [ "$1" = health-check ]; then until grep -q "^ray start --head" "$NOTES"; do sleep 0.02; done; fi
        echo "ray $* auth=$RAY_AUTH_MODE token=$(stat -c %a:%s "$RAY_AUTH_TOKEN_PATH")" >>"$NOTES"
        if [ "$1" = start ]; then exec sleep 60; fi
    """,
    # Trains until it is told to stop, where FOREVER is set, and then takes a moment for its checkpoint.
    "rlcap": """
        trap 'sleep 0.2; echo "checkpoint" >>"$NOTES"; exit 130' TERM
        if [ -n "${RAY_ADDRESS:-}" ]; then until grep -q "^ray start --address" "$NOTES"; do sleep 0.02; done; fi
        echo "rlcap $* address=${RAY_ADDRESS:-}" >>"$NOTES"
        if [ -n "${FOREVER:-}" ]; then while true; do sleep 0.05; done; fi
        exit "${CODE:-0}"
    """,
}


@pytest.fixture
def slurm(tmp_path):
    """Return the environment of a job of three nodes, submitted in a checkout."""
    programs, checkout = tmp_path / "programs", tmp_path / "checkout"
    programs.mkdir()
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (programs / name).chmod(0o755)
    (checkout / "cluster").mkdir(parents=True)
    shutil.copy(START, checkout / "cluster")
    return {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "NOTES": str(tmp_path / "notes"),
        "SLURM_SUBMIT_DIR": str(checkout),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "node-[a-c]",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_GPUS_ON_NODE": "4",
    }


def notes(environment):
    path = Path(environment["NOTES"])
    return path.read_text().splitlines() if path.exists() else []


def wait_for(environment, text):
    deadline = time.monotonic() + 20
    while not any(text in line for line in notes(environment)):
        assert time.monotonic() < deadline, notes(environment)
        time.sleep(0.02)


@pytest.mark.parametrize("script", [START, SBATCH, GPU], ids=lambda path: path.name)
def test_shell_scripts_are_free_of_known_mistakes(script):
    subprocess.run(["bash", "-n", script], check=True)
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    checked = subprocess.run(["shellcheck", "--shell=bash", script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_a_run_starts_once_and_goes_on_from_then_on(slurm, tmp_path):
    run_dir = tmp_path / "runs" / "a b"
    command = [START, "experiment=esc10", f"run_dir={run_dir}", "cluster=ray"]
    subprocess.run(command, env=slurm, check=True)
    run_dir.mkdir(parents=True)
    subprocess.run(command, env=slurm, check=True)
    (run_dir / "config.yaml").touch()
    code = subprocess.run(command, env={**slurm, "CODE": "3"}, check=False).returncode
    first = f"rlcap train --supervise experiment=esc10 run_dir={run_dir} cluster=ray address="
    assert notes(slurm) == [first, first, f"rlcap train --supervise resume=true run_dir={run_dir} address="]
    assert code == 3


def test_a_run_without_a_folder_is_refused(slurm):
    refused = subprocess.run([START, "experiment=esc10"], env=slurm, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "run_dir=FOLDER is missing" in refused.stderr
    assert notes(slurm) == []


def test_slurm_starts_a_head_then_the_others_then_the_run(slurm):
    ended = subprocess.run(["bash", SBATCH, "run_dir=/shared/a"], env={**slurm, "CODE": "1"}, timeout=60, check=False)
    assert ended.returncode == 1
    said = notes(slurm)
    steps = [line.split(" ", 2)[:2] for line in said if line.startswith(("ray ", "rlcap "))]
    assert steps == [["ray", "start"], ["ray", "health-check"], ["ray", "start"], ["rlcap", "train"]]
    head, others = [line for line in said if line.startswith("ray start")]
    secret = "auth=token token=600:64"
    room = "--num-cpus=16 --num-gpus=4 --disable-usage-stats --block"
    assert head == (
        f"ray start --head --node-ip-address=10.0.0.7 --port=6379 --dashboard-host=127.0.0.1 {room} {secret}"
    )
    assert others == f"ray start --address=10.0.0.7:6379 {room} {secret}"
    places = [line.split("ray start")[0] for line in said if line.startswith("srun") and "ray start" in line]
    assert places == [
        "srun --nodes=1 --ntasks=1 --cpus-per-task=16 --overlap --nodelist=node-a ",
        "srun --nodes=2 --ntasks=2 --cpus-per-task=16 --overlap --exclude=node-a ",
    ]
    assert said[-1] == "rlcap train --supervise run_dir=/shared/a cluster=ray address=10.0.0.7:6379"
    assert not any("requeue" in line for line in said)
    assert list(Path(slurm["SLURM_SUBMIT_DIR"]).glob(".rlcap-*")) == [], "the token is removed"


@pytest.mark.parametrize(("number", "is_queued_again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_slurm_lets_the_run_write_its_checkpoint_when_the_job_must_end(slurm, number, is_queued_again):
    with subprocess.Popen(["bash", SBATCH, "run_dir=/shared/a"], env={**slurm, "FOREVER": "yes"}) as job:
        wait_for(slurm, "rlcap train")
        job.send_signal(number)
        assert job.wait(timeout=30) == 130
    said = notes(slurm)
    assert "checkpoint" in said
    assert ("scontrol requeue 77" in said[said.index("checkpoint") :]) is is_queued_again


def test_slurm_says_what_is_missing(slurm, tmp_path):
    (Path(slurm["SLURM_SUBMIT_DIR"]) / "cluster/start-or-resume.sh").unlink()
    refused = subprocess.run(["bash", SBATCH], env=slurm, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "call sbatch in its checkout" in refused.stderr


def test_the_directives_of_slurm_are_options_of_sbatch():
    lines = SBATCH.read_text().splitlines()
    directives = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[:last]), "sbatch reads no directive behind the first command"
    sbatch = ArgumentParser(allow_abbrev=False)
    for name in ("nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node"):
        sbatch.add_argument(f"--{name}", type=int, required=True)
    for name in ("job-name", "mem", "time", "output", "signal"):
        sbatch.add_argument(f"--{name}", required=True)
    sbatch.add_argument("--open-mode", choices=["append", "truncate"])
    for name in ("requeue", "exclusive"):
        sbatch.add_argument(f"--{name}", action="store_true")
    options = sbatch.parse_args(directives)
    assert (options.ntasks_per_node, options.requeue, options.exclusive) == (1, True, True)
    assert options.signal == "B:USR1@600", "to this script alone, ten minutes before the end"


def test_the_command_in_the_head_of_the_slurm_script_has_known_settings():
    text = SBATCH.read_text().split("#   sbatch ")[1].split("#\n")[0]
    overrides = [word for word in text.replace("\\\n#", " ").split() if "=" in word]
    config = load_config([*overrides, "cluster=ray"])
    assert config.cluster.ray_address == "auto"
    assert config.run_dir.startswith("/shared/")


def test_scripts_can_be_executed():
    assert START.stat().st_mode & stat.S_IXUSR
