"""The commands of examples/dcase_captioner/README.md, with the package where an installer would put it."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from example_package import EXAMPLE, install
from safetensors.torch import load_file

SMOKE = ("experiment=smoke", "training.controls=false", "training.supervised=false", "tracking.tensorboard=false")


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a command where the example is installed, and returns what it wrote."""
    install(tmp_path / "site")
    path = os.pathsep.join(filter(None, [str(EXAMPLE), str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def call(*command):
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return call


def test_a_captioner_of_an_installed_package_is_made_checked_and_tuned(run, tmp_path, make_clips):
    rlcap = Path(sys.executable).with_name("rlcap")
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("audio", "caption"))
        for number, clip in enumerate(make_clips(*[0.5] * 8)):
            soundfile.write(tmp_path / f"{number}.wav", clip.waveform, clip.sample_rate_hz)
            table.writerow((f"{number}.wav", ("a dog barks", "rain falls on a roof")[number % 2]))
    made = run(sys.executable, "-m", "dcase_captioner.make_baseline", "captions.csv", "my-captioner", "--epochs", "2")
    assert made.splitlines()[-1].startswith("epoch 2: loss ")
    assert "FAILED" not in run(rlcap, "check-captioner", "my-captioner")
    run(rlcap, "train", *SMOKE, "captioner.checkpoint=my-captioner", "run_dir=run")
    captioners = tmp_path / "run/captioners"
    assert json.loads((captioners / "tuned/config.json").read_text())["family"] == "dcase"
    baseline, tuned = (load_file(captioners / name / "model.safetensors") for name in ("baseline", "tuned"))
    assert baseline.keys() == tuned.keys()
    assert any(not torch.equal(baseline[name], tuned[name]) for name in tuned)
