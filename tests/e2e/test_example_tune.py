"""The search with Ray Tune, as the page on scaling out gives it, at its smallest."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/tune.py"
ENDS_WITHIN_S = 540
"""Far above what it takes, half a minute on two cores: they may be shared."""


@pytest.mark.timeout(ENDS_WITHIN_S + 20)
def test_a_search_tries_settings_and_names_the_best(tmp_path):
    environment = {**os.environ, "NUM_TRIALS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, EXAMPLE, "experiment=smoke"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    setting = r"algorithm\.\w+=[\d.e-]+"
    best = rf"win rate \d\.\d+, KL -?\d+\.\d: rlcap train {setting} {setting} {setting}"
    assert re.search(f"^{best}$", done.stdout, re.MULTILINE)
    (summary,) = tmp_path.glob("runs/tune/run_trial_*/summary.json")
    assert summary.with_name("report.html").exists()
