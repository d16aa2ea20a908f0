"""The comparison with TRL as docs/benchmarks.md has it, in an environment that is made for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMPARE = Path(__file__).parents[2] / "benchmarks/trl/compare.py"


@pytest.mark.timeout(900)
def test_both_sides_run_where_rlcap_is_installed_in_place(tmp_path):
    figures = tmp_path / "trl.json"
    command = [sys.executable, COMPARE, "--rounds", "1", "--steps", "1", "--venv", tmp_path / "venv", "--json", figures]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(figures.read_text())
    assert [row["trainer"] for row in found["speeds"]] == ["grpo", "rloo"]
    assert all(row["captions_per_s"] > 0 and row["trl_captions_per_s"] > 0 for row in found["speeds"])
