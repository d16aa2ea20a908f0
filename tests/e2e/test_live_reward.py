"""The reward of a run that is going on, swapped by the commands and the Python calls that users have."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from reward_server.heads import MlpHead
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from rlcap import live
from rlcap.audio.arrow_store import ClipStore
from rlcap.errors import RunError
from rlcap.metrics import read_metrics
from rlcap.run_directory import RunDirectory

RLCAP = Path(sys.executable).with_name("rlcap")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
NUM_SWAPS, EVERY_FOURTH_IS_BROKEN = 20, 4
NUM_CLIPS, CLIPS_PER_UPDATE = 24, 4
KILL_EVERY_S = 3
NUM_UPDATES_UNDER_FIRE = int(os.environ.get("RLCAP_UPDATES_UNDER_FIRE", "40"))
"""More of them make a longer trial."""
QUICK = ("training.controls=false", "training.supervised=false", "tracking.tensorboard=false")
BROKEN = {
    "its weights hold NaN": "not finite",
    "it gives every caption the same score": "its scores spread by 0",
    "its head was cut off": "cannot be read",
    "it is of another architecture": "of another architecture",
    "it is no reward model": "does not describe a reward model",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("live")


def start(workplace, name, *settings):
    """Start a run with two actors and two shards; return it, and the process that drives it, after a few updates."""
    run = RunDirectory(workplace / "runs" / name)
    processes = ("cluster.num_actors=2", "reward.num_shards=2")
    process = subprocess.Popen(
        [RLCAP, "train", "experiment=smoke", *processes, *settings, *QUICK, f"run_dir={run.path}"],
        cwd=workplace,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: num_updates(run) >= 3 or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    return run, process


@pytest.fixture(scope="module")
def run(workplace):
    """A run that has no end of its own, and the process that drives it."""
    settings = ("training.num_updates=100000", "training.checkpoint_every_updates=50", "tracking.prometheus=true")
    found, process = start(workplace, "live", *settings)
    yield found, process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)


def wait_until(condition, timeout_s=240):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def num_updates(run):
    return read_metrics(run).num_rows if run.path.exists() else 0


def rlcap(*arguments):
    done = subprocess.run(
        [RLCAP, *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def fitted(run, workplace):
    """The reward model that the run began with."""
    (folder,) = (workplace / "runs/cache").glob("reward-mlp-*")
    return folder


def candidate(fitted, folder, number):
    """Another head over the same towers."""
    torch.manual_seed(number)
    ClapReward(SmallClap.load(fitted / "clap"), MlpHead(16, [64, 32])).save(folder)
    return folder


def broken_candidate(fitted, folder, fault):
    """A candidate with one fault."""
    candidate(fitted, folder, number=99)
    head = folder / "head.safetensors"
    if fault == "its weights hold NaN":
        spoiled = MlpHead(16, [64, 32])
        torch.nn.init.constant_(spoiled.first.weight, torch.nan)
        ClapReward(SmallClap.load(fitted / "clap"), spoiled).save(folder)
    elif fault == "it gives every caption the same score":
        silent = MlpHead(16, [64, 32])
        torch.nn.init.zeros_(silent.rest[-1].weight)
        ClapReward(SmallClap.load(fitted / "clap"), silent).save(folder)
    elif fault == "its head was cut off":
        head.write_bytes(head.read_bytes()[:100])
    elif fault == "it is of another architecture":
        weights = load_file(head)
        save_file({**weights, "first.weight": weights["first.weight"][:4]}, head)
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    return folder


def test_twenty_swaps_under_load_lose_nothing_and_mix_nothing(run, fitted, tmp_path):
    run, process = run
    faults, swapped = list(BROKEN), {}
    for number in range(NUM_SWAPS):
        folder = tmp_path / f"candidate-{number}"
        if number % EVERY_FOURTH_IS_BROKEN == 2:
            fault = faults.pop()
            with pytest.raises(RunError, match=BROKEN[fault]):
                live.swap_reward(run.path, broken_candidate(fitted, folder, fault))
            continue
        report = live.swap_reward(run.path, candidate(fitted, folder, number))
        assert report["faults"] == []
        swapped[report["from_update"]] = report["version"]
        wait_until(lambda first=report["from_update"]: num_updates(run) >= first)
    assert not faults
    last = max(swapped)
    wait_until(lambda: num_updates(run) >= last + 3)
    status = live.reward_status(run.path)
    # 24 clips over several epochs, and heads over the same towers: each was heard once.
    assert num_updates(run) > 3 * NUM_CLIPS / CLIPS_PER_UPDATE
    assert sum(shard["num_embedded"] for shard in status["shards"]) == NUM_CLIPS
    assert {entry["from_update"]: entry["version"] for entry in status["history"][1:]} == swapped
    assert status["version"] == swapped[last]
    metrics = read_metrics(run)
    assert set(metrics["rollout/num_rollouts"].to_pylist()) == {8.0}
    assert set(metrics["rollout/failed"].to_pylist()) == {0.0}
    assert set(metrics["actors/lost_batches"].to_pylist()) == {0.0}
    assert metrics["update"].to_pylist() == list(range(1, metrics.num_rows + 1))
    numbers = metrics["reward/version_number"].to_numpy()
    expected = [sum(first <= update for first in swapped) for update in metrics["update"].to_pylist()]
    assert numbers.tolist() == expected
    assert np.isfinite(metrics["reward_server/shard-0/latency_p95_ms"].to_numpy()[-1])
    assert process.poll() is None


def gauges_of(process):
    """What the exporter of a run's Ray tells of the run; its port is written in the folder of the Ray session."""
    alive = [one.info for one in psutil.process_iter(["ppid", "name", "cmdline"])]
    [head] = [one["cmdline"] for one in alive if (one["ppid"], one["name"]) == (process.pid, "gcs_server")]
    [session] = re.findall(r"--log_dir=(\S+)/logs", " ".join(head))
    [port] = [int(file.read_text()) for file in Path(session).glob("metrics_export_port_*")]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        found = re.findall(r'^ray_(rlcap_\w+)\{.*\brun="live".*\} (\S+)$', answer.read().decode(), re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_prometheus_reads_what_a_whole_job_writes(run):
    run, process = run
    wait_until(lambda: "rlcap_rollout_num_rollouts" in gauges_of(process))
    gauges = gauges_of(process)
    assert gauges["rlcap_rollout_num_rollouts"] == 8
    assert gauges["rlcap_update"] >= 1
    wait_until(lambda: num_updates(run) >= gauges["rlcap_update"])


def test_the_commands_swap_shadow_scale_and_roll_back(run, fitted, tmp_path):
    run, _ = run
    version = live.reward_status(run.path)["version"]
    new = candidate(fitted, tmp_path / "new", 1000)
    code, out, err = rlcap("reward", "swap", run.path, new, "--shadow")
    assert code == 0, err
    assert "is a shadow" in out
    wait_until(lambda: live.reward_status(run.path)["shadow"]["num_captions"] > 0)
    code, out, _ = rlcap("reward", "status", run.path)
    assert code == 0
    assert f"live         {version}" in out
    assert "shadow" in out
    assert "shard-1" in out
    code, out, _ = rlcap("reward", "swap", run.path, "--discard")
    assert "is no shadow any more" in out
    code, out, err = rlcap("reward", "swap", run.path, new)
    assert code == 0, err
    assert "scores from update" in out
    code, out, _ = rlcap("reward", "rollback", run.path)
    assert out.startswith(f"{version} scores again")
    code, out, _ = rlcap("reward", "scale", run.path, "--add")
    assert out == "shard-2 has joined\n"
    reached = num_updates(run) + 2
    wait_until(lambda: num_updates(run) >= reached)
    code, out, _ = rlcap("reward", "scale", run.path, "--remove", "shard-0")
    assert out == "shard-0 has left\n"
    reached = num_updates(run) + 2
    wait_until(lambda: num_updates(run) >= reached)
    assert list(live.reward_status(run.path)["owners"]) == ["shard-1", "shard-2"]
    assert read_metrics(run)["rollout/failed"].to_pylist()[-1] == 0
    code, _, err = rlcap("reward", "scale", run.path, "--remove", "shard-9")
    assert (code, err) == (1, "rlcap: there is no shard 'shard-9'; there are shard-1, shard-2\n")


def test_actors_join_and_leave_by_command(run):
    found, _ = run

    def num_present():
        return read_metrics(found)["actors/present"][-1].as_py()

    code, told, _ = rlcap("actors", "scale", found.path, "--add", 1)
    assert (code, told) == (0, "2 caption actors are at work, 1 more have yet to start\n")
    wait_until(lambda: num_present() == 3)
    assert rlcap("actors", "scale", found.path, "--remove", 2)[:2] == (0, "1 caption actors are at work\n")
    wait_until(lambda: num_present() == 1)
    code, _, complaint = rlcap("actors", "scale", found.path, "--remove", 1)
    assert (code, complaint) == (1, "rlcap: the run has 1 caption actors and cannot do without the last\n")
    live.scale_actors(found.path, add=1)


def test_a_stopped_run_keeps_its_swapped_reward_and_refuses_further_ones(run, fitted, tmp_path):
    run, process = run
    report = live.swap_reward(run.path, candidate(fitted, tmp_path / "last", 2000))
    wait_until(lambda: num_updates(run) >= report["from_update"])
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    with pytest.raises(RunError, match="is not going on"):
        live.reward_status(run.path)
    goes_on = num_updates(run) + 2
    settings = (f"training.num_updates={goes_on}", "training.sample_every_updates=1")
    code, _, err = rlcap("train", "resume=true", f"run_dir={run.path}", *settings)
    assert code == 0, err
    history = json.loads(run.reward_history.read_text())
    assert history[-1]["version"] == report["version"]
    samples = pq.read_table(run.samples).to_pylist()
    assert {row["reward_version"] for row in samples if row["update"] == goes_on} == {report["version"]}


def test_a_run_whose_shards_are_killed_again_and_again_ends_as_it_should_and_no_reward_is_invented(workplace, fitted):
    run, process = start(
        workplace, "killed", f"training.num_updates={NUM_UPDATES_UNDER_FIRE}", "training.sample_every_updates=1"
    )
    rng, num_killed = np.random.default_rng(0), 0
    while process.poll() is None:
        try:
            shards = live.reward_status(run.path)["shards"]
        except RunError:
            shards = []  # it is being evaluated
        if shards:
            with contextlib.suppress(ProcessLookupError):  # the run ends its shards as well
                os.kill(shards[rng.integers(len(shards))]["process_id"], signal.SIGKILL)
                num_killed += 1
        time.sleep(KILL_EVERY_S)
    assert process.returncode == 0, process.communicate()[1]
    assert num_killed >= 2
    metrics = read_metrics(run)
    assert metrics["update"].to_pylist() == list(range(1, NUM_UPDATES_UNDER_FIRE + 1))
    scored = metrics["rollout/num_rollouts"].to_numpy() + metrics["rollout/failed"].to_numpy()
    assert set(scored) == {8}
    assert_rewards_are_the_models(run, fitted, workplace)


def assert_rewards_are_the_models(run, fitted, workplace):
    """Score the samples of a run again, here."""
    (stored,) = (workplace / "runs/cache").glob("clips-rl-*/clips.arrow")
    store, model = ClipStore(stored), ClapReward.load(fitted)
    samples = [row for row in pq.read_table(run.samples).to_pylist() if np.isfinite(row["reward"])]
    assert len(samples) >= NUM_UPDATES_UNDER_FIRE
    positions = [store.clip_ids().index(row["clip_id"]) for row in samples]
    clips = [store.read([position])[0][0] for position in positions]
    expected = model.score(model.embed_audio(clips), [row["caption"] for row in samples], np.arange(len(samples)))
    np.testing.assert_allclose([row["reward"] for row in samples], expected, rtol=1e-4, atol=1e-5)
