"""The whole job with actor, shard and learner on one GPU, and a captioner in half precision carried on to the end."""

import json
import math
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from half_precision import Checkpoints
from tiny_models import WHISPER_PROMPT

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(400)]
RLCAP = [sys.executable, "-c", "from rlcap.commands.main import main; main()"]
"""Also where rlcap is not installed, but lies on the path."""
SHARED_GPU = ("cluster.num_learners=1", "cluster.learner_gpus=0.4", "cluster.actor_gpus=0.3", "cluster.shard_gpus=0.3")


def rlcap(*arguments, cwd):
    done = subprocess.run([*RLCAP, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module", params=["built-in", "float16", "bfloat16"])
def captioner(request, tmp_path_factory):
    """Settings of the built-in captioner, or of a Whisper as it is published, in half precision."""
    if request.param == "built-in":
        return ()
    path = Checkpoints(tmp_path_factory.mktemp("whisper")).find("whisper", request.param)
    return (f"captioner.checkpoint={path}", f"captioner.prompt='{WHISPER_PROMPT}'", "captioner.supervise=true")


def test_the_smoke_job_runs_is_resumed_and_captions(captioner, device, tmp_path):
    gpus = SHARED_GPU if device.type == "cuda" else ()
    run = tmp_path / "run"
    rlcap("train", "experiment=smoke", "training.controls=false", *gpus, *captioner, f"run_dir={run}", cwd=tmp_path)
    rlcap("train", "resume=true", f"run_dir={run}", "training.num_updates=4", cwd=tmp_path)
    metrics = pq.read_table(run / "metrics.parquet").to_pydict()
    assert metrics["update"] == [1, 2, 3, 4]
    assert all(math.isfinite(value) for value in metrics["learner/loss"])
    assert math.isfinite(json.loads((run / "summary.json").read_text())["win_rate"])
    soundfile.write(tmp_path / "noise.wav", torch.randn(16_000).numpy() / 10, 16_000)
    assert "noise.wav" in rlcap("caption", run, "noise.wav", cwd=tmp_path)
