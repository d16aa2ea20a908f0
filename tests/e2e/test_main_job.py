"""The main job as a user runs it: the smoke experiment in processes of its own, from start to report."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from tiny_models import WHISPER_PROMPT, save_tiny_model

from rlcap.algorithm.prometheus import EXPORTED_PREFIX, gauge_name
from rlcap.captioners.loading import load_captioner

RLCAP = Path(sys.executable).with_name("rlcap")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
SUMMARY = {
    "win_rate", "win_rate_ci95", "win_rate_where_baseline_failed", "win_rate_vs_supervised", "named_right_baseline",
    "named_right_tuned", "reward_pair_accuracy", "mean_kl", "captions_per_s", "quarantined", "failed_scores",
    "failures", "wall_s", "controls",
}  # fmt: skip
QUICK = ("training.controls=false", "training.supervised=false", "tracking.tensorboard=false")
STOPS_WITHIN_S = 15


def start(*arguments, cwd):
    return subprocess.Popen(
        [RLCAP, *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def rlcap(*arguments, cwd):
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=240)
    assert "Traceback" not in err
    return process.returncode, out, err


def processes_of_session(session):
    """Ray's processes stay in the session of the process that started them."""
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[3]) == session:
            alive.append(stat.parent.name)
    return alive


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def finished(workplace):
    """The smoke experiment, run once; its result and what it said."""
    run_dir = workplace / "runs/smoke"
    code, out, err = rlcap("train", "experiment=smoke", f"run_dir={run_dir}", "profile=true", cwd=workplace)
    assert code == 0, err
    return run_dir, out, err


def test_the_job_leaves_everything_that_it_promises(finished):
    run_dir, out, err = finished
    assert out == f"Done. The report is {run_dir / 'report.html'}\n"
    assert "constructor arguments" not in err
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary.keys() >= SUMMARY
    assert summary["synthetic"] is True
    assert 0 <= summary["win_rate_ci95"][0] <= summary["win_rate"] <= summary["win_rate_ci95"][1] <= 1
    assert set(summary["controls"]) == {"text_only", "shuffled_audio"}
    assert (run_dir.parent / "latest").resolve() == run_dir
    assert pq.read_table(run_dir / "metrics.parquet").num_rows == 2
    assert pq.read_table(run_dir / "heldout.parquet").num_rows == 12
    assert pq.read_table(run_dir / "samples.parquet").num_rows > 0
    assert (run_dir / "report.html").stat().st_size > 10_000
    assert [path.name for path in sorted((run_dir / "checkpoints").iterdir())] == ["update-000001", "update-000002"]
    assert not list((run_dir.parents[1] / "runs/cache").glob("*.unfinished*"))


def test_the_dashboard_of_grafana_asks_for_what_a_run_writes(finished):
    written = pq.read_table(finished[0] / "metrics.parquet").column_names
    dashboard = Path(__file__).parents[2] / "cluster/grafana/rlcap.json"
    asked = set(re.findall(r"ray_rlcap_\w+", dashboard.read_text()))
    of_shards = {name for name in asked if re.search("queue|latency", name)}  # a shard is looked at after seconds
    assert asked - of_shards <= {EXPORTED_PREFIX + gauge_name(metric).name for metric in written}


def test_the_timeline_of_a_run_shows_the_training_loop_and_its_actor(finished):
    events = json.loads((finished[0] / "timeline.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    loop, actor = ([span for span in spans if span["pid"] == process] for process in (1, 2))
    of_an_update = ["wait for rollouts", "learn", "publish weights", "checkpoint"]
    assert [span["name"] for span in loop] == ["update 1", *of_an_update, "update 2", *of_an_update]
    assert {"batch 0", "batch 1", "batch 2", "batch 3", "load weights"} <= {span["name"] for span in actor}
    first_wait = loop[1]
    first_batch = next(span for span in actor if span["name"] == "batch 0")
    assert first_wait["ts"] <= first_batch["ts"]
    assert first_batch["ts"] + first_batch["dur"] <= first_wait["ts"] + first_wait["dur"] + 1000, "one clock, one ms"


def test_a_run_captions_any_file(finished, workplace):
    run_dir, _, _ = finished
    soundfile.write(workplace / "tone.wav", 0.3 * np.sin(np.arange(44_100) / 20), 44_100)
    (workplace / "broken.wav").write_bytes(b"no audio")
    code, out, err = rlcap("caption", run_dir, "tone.wav", "broken.wav", cwd=workplace)
    assert code == 1
    path, caption = out.rstrip("\n").split("\t")
    assert path == "tone.wav"
    assert caption
    assert err.startswith("rlcap: broken.wav: ")


def test_a_run_is_evaluated_again_with_the_same_figures(finished, workplace):
    run_dir, _, _ = finished
    code, out, err = rlcap("eval", run_dir, cwd=workplace)
    assert code == 0, err
    assert out == f"{run_dir / 'eval.json'}\n"
    again, before = (json.loads((run_dir / name).read_text()) for name in ("eval.json", "summary.json"))
    assert {k: v for k, v in again.items() if k != "wall_s"} == {k: v for k, v in before.items() if k != "wall_s"}


def test_another_run_takes_its_stages_from_the_cache_and_can_be_stopped_and_resumed(finished, workplace):
    run_dir = workplace / "runs/stopped"
    settings = ("experiment=smoke", f"run_dir={run_dir}", *QUICK)
    process = start("train", *settings, "training.num_updates=100000", cwd=workplace)
    deadline = time.monotonic() + 90
    while not list(run_dir.glob("checkpoints/update-*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    stages = json.loads((workplace / "runs/smoke/summary.json").read_text())["wall_s"]
    assert stages.keys() >= {"clap", "baseline", "preferences", "reward-mlp", "ppo", "evaluation"}
    assert len(list((workplace / "runs/cache").glob("clap-*"))) == 1

    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    stopped = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - stopped < STOPS_WITHIN_S
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"continue with `rlcap train resume=true run_dir={run_dir}`" in err
    assert not processes_of_session(process.pid)
    last = max(int(path.name.removeprefix("update-")) for path in run_dir.glob("checkpoints/update-*"))

    code, out, err = rlcap(
        "train", "resume=true", f"run_dir={run_dir}", f"training.num_updates={last + 2}", cwd=workplace
    )
    assert code == 0, err
    assert "Done" in out
    updates = pq.read_table(run_dir / "metrics.parquet")["update"].to_pylist()
    assert updates == list(range(1, last + 3))
    assert json.loads((run_dir / "summary.json").read_text()).keys() >= {"win_rate", "mean_kl", "wall_s"}

    assert f"num_updates: {last + 2}\n" in (run_dir / "config.yaml").read_text()
    code, _, err = rlcap("train", "resume=true", f"run_dir={run_dir}", "captioner.width=16", cwd=workplace)
    assert code == 2
    assert err.splitlines()[-1].startswith("rlcap: captioner.width is settled when a run begins: it was 32")


def test_a_whisper_is_taught_and_then_tuned_by_adapters_that_are_kept_alone(finished, workplace):
    run_dir = workplace / "runs/whisper"
    checkpoint = save_tiny_model("whisper", workplace / "whisper")
    code, _, err = rlcap(
        "train",
        "experiment=smoke",
        f"run_dir={run_dir}",
        f"captioner.checkpoint={checkpoint}",
        f"captioner.prompt='{WHISPER_PROMPT}'",
        "captioner.supervise=true",
        "captioner.decoder=lora",
        "captioner.adapters_alone=true",
        f"reward.checkpoint={finished[0] / 'reward'}",
        "training.controls=false",
        "training.num_updates=1",
        cwd=workplace,
    )
    assert code == 0, err
    assert json.loads((run_dir / "summary.json").read_text()).keys() >= SUMMARY - {"controls"}
    baseline, tuned, supervised = (run_dir / "captioners" / name for name in ("baseline", "tuned", "supervised"))
    assert (baseline / "model.safetensors").exists()
    assert (supervised / "model.safetensors").exists()
    assert (tuned / "adapter_model.safetensors").exists()
    assert not (tuned / "model.safetensors").exists()
    assert load_captioner(tuned).base == baseline.resolve()


@pytest.fixture
def fault(capfd, monkeypatch, tmp_path):
    """Return a function that runs a command here, and returns exit code and the only line of complaint."""
    from rlcap.commands.main import run

    monkeypatch.chdir(tmp_path)

    def complain(*arguments):
        code = run([str(argument) for argument in arguments])
        err = capfd.readouterr().err
        assert "Traceback" not in err
        complaints = [line for line in err.splitlines() if line.startswith("rlcap: ")]
        assert len(complaints) == 1, err
        return code, complaints[0].removeprefix("rlcap: ")

    return complain


def write_manifest(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "manifest.csv").write_text(text)


MANIFEST = ("train", "experiment=smoke", "data=manifest", "data.root=clips", "run_dir=run")


def test_settings_that_are_wrong_are_told_before_anything_is_written(fault, tmp_path):
    code, sentence = fault("train", "experiment=smoke", "algorithm.kl_cof=0.1")
    assert code == 2
    assert "did you mean kl_coef?" in sentence
    code, sentence = fault("train", "experiment=smoke", "algorithm.clip_range=1.5")
    assert code == 2
    assert "algorithm.clip_range" in sentence
    assert list(tmp_path.iterdir()) == []


def test_recordings_that_are_not_there_are_told_in_a_sentence(fault, tmp_path):
    code, sentence = fault(*MANIFEST)
    assert code == 1
    assert "clips" in sentence
    write_manifest(tmp_path / "clips", "")
    assert fault(*MANIFEST)[0] == 1, "the same folder again"
    write_manifest(tmp_path / "clips", "path,label,fold\n")
    assert fault(*MANIFEST, "run_dir=run3")[0] == 1
    write_manifest(tmp_path / "clips", "file,label,fold\na.wav,dog,1\n")
    code, sentence = fault(*MANIFEST, "run_dir=run4")
    assert code == 1
    assert "path" in sentence


def test_recordings_that_are_all_bad_are_told_in_a_sentence(fault, tmp_path):
    write_manifest(tmp_path / "clips", "path,label,fold\n" + "".join(f"{i}.wav,dog,{1 + i % 4}\n" for i in range(8)))
    for index in range(8):
        (tmp_path / f"clips/{index}.wav").write_bytes(b"no audio")
    code, sentence = fault(*MANIFEST)
    assert code == 1
    assert "none of the" in sentence


def test_checkpoints_that_are_none_are_told_in_a_sentence(fault, tmp_path, make_captioner):
    smoke = ("train", "experiment=smoke")
    code, sentence = fault(*smoke, "captioner.checkpoint=nowhere", "run_dir=a")
    assert (code, "nowhere holds no captioner" in sentence) == (1, True)

    make_captioner().save(tmp_path / "other")
    (tmp_path / "other/config.json").write_text('{"family": "pixels"}')
    code, sentence = fault(*smoke, "captioner.checkpoint=other", "run_dir=b")
    assert (code, "family 'pixels'" in sentence) == (1, True)

    make_captioner().save(tmp_path / "deep")
    config = json.loads((tmp_path / "deep/language_model/config.json").read_text())
    (tmp_path / "deep/language_model/config.json").write_text(json.dumps({**config, "n_layer": 3}))
    code, sentence = fault(*smoke, "captioner.checkpoint=deep", "run_dir=c")
    assert (code, "lacks weights of its GPT2LMHeadModel" in sentence) == (1, True)

    make_captioner().save(tmp_path / "fine")
    code, sentence = fault(*smoke, "captioner.checkpoint=fine", "reward.checkpoint=fine", "run_dir=d")
    assert (code, "fine" in sentence) == (1, True)
    assert not list(tmp_path.glob("runs/cache/*.unfinished*"))
