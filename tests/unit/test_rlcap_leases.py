"""Leases, of real processes that are stopped and killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from filelock import SoftFileLease

from rlcap import leases
from rlcap.config.run import RunConfig
from rlcap.config.training import TrackingConfig, TrainingConfig
from rlcap.errors import LeaseLostError, RunError
from rlcap.leases import RUN_DRIVER, RUN_LEASE, run_lease
from rlcap.metrics import MetricsWriter, read_metrics
from rlcap.pipeline import rollout_ledger
from rlcap.pipeline.checkpointing import Checkpointer
from rlcap.pipeline.evaluate_run import evaluate
from rlcap.pipeline.reward_history import RewardEntry, RewardHistory
from rlcap.pipeline.rollout_ledger import LedgerWriter
from rlcap.report.build import build_report
from rlcap.run_directory import create_run_directory, drive_run, find_run_directory

HOLDER = """
import pathlib, sys, time
from rlcap import leases
leases.LEASE_S, leases.HEARTBEAT_S = {lease_s}, {heartbeat_s}
with leases.run_lease(pathlib.Path(sys.argv[1])) as lease:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        lease.check()
    except leases.LeaseLostError as lost:
        print(lost, flush=True)
"""
LEASE_S, HEARTBEAT_S = 3.0, 0.3


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(leases, "LEASE_S", LEASE_S)
    monkeypatch.setattr(leases, "HEARTBEAT_S", HEARTBEAT_S)


@pytest.fixture
def hold(tmp_path):
    """Return a function that starts a process which drives the run in `tmp_path`."""
    holders = []

    def start():
        code = HOLDER.format(lease_s=LEASE_S, heartbeat_s=HEARTBEAT_S)
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        holders.append(holder)
        assert holder.stdout.readline() == "held\n"
        return holder

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate()


def pretend_to_be_elsewhere(path):
    """Make a lease look as if its holder were on another machine."""
    marker = path / RUN_LEASE
    lines = ["host=far-away\n" if line.startswith("host=") else line for line in marker.open()]
    marker.write_text("".join(lines))


def pretend_to_be_another(path):
    """Make a lease look as if a process on another machine had taken it over."""
    (path / RUN_LEASE).unlink()
    (path / RUN_LEASE).write_text(f"filelock/2\npid=1\nhost=far-away\nmode=lease\ntoken=0\nduration={LEASE_S}\n")


def test_a_second_driver_is_refused_and_told_who_writes_there_and_since_when(hold, tmp_path):
    holder = hold()
    with (
        pytest.raises(RunError, match=r"is in use: .* is still running and writes there") as refused,
        run_lease(tmp_path),
    ):
        pass
    driver = json.loads((tmp_path / RUN_DRIVER).read_text())
    for told in (f"process {holder.pid} on {driver['host']}", driver["user"], driver["since"], driver["command"]):
        assert told in str(refused.value)
    holder.communicate("end\n")
    with run_lease(tmp_path) as lease:
        lease.check()
    assert list(tmp_path.iterdir()) == []


def resume(path):
    with drive_run(RunConfig(run_dir=str(path), resume=True)):
        pass


def begin_anew(path):
    with drive_run(RunConfig(run_dir=str(path))):
        pass


@pytest.mark.parametrize("drive", [resume, begin_anew, lambda path: evaluate(path, [])], ids=["resume", "new", "eval"])
def test_whatever_would_drive_a_run_that_goes_on_is_refused_and_changes_nothing(drive, hold, tmp_path):
    run = create_run_directory(RunConfig(run_dir=str(tmp_path)))
    if drive is not begin_anew:
        run.summary.write_text("{}")
    hold()
    names = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match="is still running"):
        drive(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == names


def test_whatever_only_reads_works_on_a_run_that_goes_on(hold, tmp_path):
    create_run_directory(RunConfig(run_dir=str(tmp_path)))
    hold()
    run = find_run_directory(tmp_path)
    assert read_metrics(run).num_rows == 0
    assert build_report(run.path).is_file()


def test_the_lease_of_a_killed_driver_is_taken_over_at_once(hold, tmp_path):
    holder = hold()
    holder.kill()
    holder.wait()
    begun = time.monotonic()
    with run_lease(tmp_path) as lease:
        lease.check()
        assert json.loads((tmp_path / RUN_DRIVER).read_text())["pid"] == os.getpid()
    assert time.monotonic() - begun < LEASE_S


def test_that_of_a_driver_elsewhere_once_its_heartbeat_has_been_away_for_long(hold, tmp_path):
    holder = hold()
    holder.kill()
    holder.wait()
    pretend_to_be_elsewhere(tmp_path)
    begun = time.monotonic()
    with run_lease(tmp_path) as lease:
        lease.check()
    assert time.monotonic() - begun >= LEASE_S


def test_a_driver_that_was_stopped_for_so_long_that_another_took_over_writes_no_more(hold, tmp_path):
    holder = hold()
    holder.send_signal(signal.SIGSTOP)
    with run_lease(tmp_path) as lease:
        holder.send_signal(signal.SIGCONT)
        told, _ = holder.communicate("look\n", timeout=60)
        assert f"process {os.getpid()} on" in told
        assert told.endswith("has taken it over, after no sign of life from here for 3 s; nothing more is written\n")
        lease.check()
        assert json.loads((tmp_path / RUN_DRIVER).read_text())["pid"] == os.getpid()


def test_a_lease_that_was_removed_is_no_longer_held(tmp_path):
    with run_lease(tmp_path) as lease:
        (tmp_path / RUN_LEASE).unlink()
        with pytest.raises(LeaseLostError, match="it is gone"):
            lease.check()


def test_two_containers_on_one_machine_in_which_both_are_process_1_do_not_share_a_lease(hold, tmp_path, monkeypatch):
    """The one that asks sees the number of the other as its own, or as that of nobody."""
    holder = hold()
    pretend_to_be_elsewhere(tmp_path)
    monkeypatch.setattr(os, "getpid", lambda: holder.pid)
    with pytest.raises(RunError, match="is in use"), run_lease(tmp_path):
        pass


def log_metrics(run):
    writer = MetricsWriter(run, TrackingConfig(tensorboard=False))
    return lambda: writer.log(1, {"a": 1.0})


def cut_metrics_back(run):
    writer = MetricsWriter(run, TrackingConfig(tensorboard=False))
    writer.log(1, {"a": 1.0})
    return lambda: writer.truncate_after(0)


def write_checkpoint(run):
    checkpoints = Checkpointer(run, TrainingConfig(), None, newest=0)
    return lambda: checkpoints.finish(1, lambda: lambda folder: (folder / "state").touch())


def set_checkpoints_aside(run):
    checkpoints = Checkpointer(run, TrainingConfig(), None, newest=0)
    checkpoints.finish(1, lambda: lambda folder: (folder / "state").touch())
    return lambda: checkpoints.set_aside(1)


def save_ledger(run):
    ledger = LedgerWriter(run, 1, 0)
    ledger._rows = [dict.fromkeys(rollout_ledger.SCHEMA.names)]
    return lambda: ledger.save(1)


def note_reward_model(run):
    history = RewardHistory(run, RewardEntry("v1", 1, "reward"))
    return lambda: history.add(RewardEntry("v2", 2, "reward"))


@pytest.mark.parametrize(
    "prepare",
    [log_metrics, cut_metrics_back, write_checkpoint, set_checkpoints_aside, save_ledger, note_reward_model],
)
def test_whatever_writes_into_a_run_ends_without_a_trace_once_another_has_taken_it_over(prepare, tmp_path):
    with drive_run(RunConfig(run_dir=str(tmp_path))) as run:
        write = prepare(run)
        pretend_to_be_another(tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(LeaseLostError, match="process 1 on far-away has taken it over"):
            write()
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_lease_whose_heartbeat_gave_up_is_kept_alive_by_whoever_checks_it(tmp_path):
    class Unwritable(SoftFileLease):
        compromise = "refresh-failed"

    lease = Unwritable(tmp_path / RUN_LEASE, thread_local=False)
    with lease.acquire():
        os.utime(tmp_path / RUN_LEASE, (0, 0))
        leases.RunLease(tmp_path, lease).check()
        assert time.time() - (tmp_path / RUN_LEASE).stat().st_mtime < 60


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file cannot be written: "), run_lease(tmp_path / "file"):
        pass
