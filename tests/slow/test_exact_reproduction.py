"""The stages before PPO give the same bits in processes of their own: alone, and beside busy ones."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from busy_machine import busy_machine

RLCAP = Path(sys.executable).with_name("rlcap")
SETTINGS = (
    # Models and batches of the quickstart's sizes, so that threads share their work; fewer clips and epochs.
    "experiment=quickstart",
    "data.soundscapes={captioned: 32, clap: 64, preference: 24}",
    "sft.text_epochs=1",
    "sft.num_epochs=2",
    "reward.clap.num_epochs=2",
    "reward.head.num_epochs=3",
)


def fit_reward(folder):
    """Run all stages up to the reward model; return the weights of each by file."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [RLCAP, "reward", "fit", *SETTINGS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cache = folder / "runs/cache"
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*.safetensors")}


@pytest.mark.timeout(900)
def test_every_stage_beside_busy_processes_is_bit_for_bit_what_it_is_alone(tmp_path):
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    alone.mkdir()
    expected = fit_reward(alone)
    assert {name.split("-")[0] for name in expected} >= {"clap", "baseline", "reward"}
    for clips in (alone / "runs/cache").glob("clips-*"):
        shutil.copytree(clips, beside / "runs/cache" / clips.name)
    with busy_machine():
        assert fit_reward(beside) == expected
