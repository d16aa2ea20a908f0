"""The script that checks a GPU, where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "gpu/run.sh"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: tests/gpu/run.sh checks it")
def test_a_machine_without_a_gpu_is_told_that_nothing_was_checked(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RLCAP_GPU_DRY_RUN"}
    done = subprocess.run(
        [SCRIPT, tmp_path / "figures"],
        env={**environment, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "skipped: PyTorch sees no GPU here, so nothing was checked and nothing measured\n"
    assert not list((tmp_path / "figures").iterdir())
