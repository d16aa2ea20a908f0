"""The benchmarks as a user runs them, on a small model and for moments: what they print and write, not how fast."""

import json
import os
import subprocess
import sys
from pathlib import Path

RLCAP = Path(sys.executable).with_name("rlcap")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
SMALL = (
    "reward.clap.embedding_dim=16", "reward.clap.audio_channels=[4,4,8,8]", "reward.clap.text_width=16",
    "reward.clap.num_heads=2", "reward.head.hidden_sizes=[16,8]",
)  # fmt: skip


def bench(tmp_path, *arguments):
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [RLCAP, "bench", *arguments, *SMALL, "--json", file],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


def test_the_reward_server_is_measured_beside_the_bare_model(tmp_path):
    out, found = bench(tmp_path, "reward", "--seconds", "0.5")
    assert f"share of bare model     {found['share_of_bare_model']:.1%}" in out
    assert len(found["rounds"]) == 5
    assert {row["num_shards"] for row in found["sweep"]} == {1, 2}
    assert {row["hit_rate"] for row in found["sweep"]} == {0.0, 0.5, 1.0}
    assert all(row["scores_per_s"] > 0 and row["num_failed"] == 0 for row in found["sweep"])
    assert found["hardware"]["num_cores"] >= 1


def test_swaps_under_load_refuse_what_is_broken_and_hear_nothing_anew(tmp_path):
    out, found = bench(tmp_path, "swap", "--swaps", "4")
    assert "share within swaps" in out
    assert (found["num_swaps"], found["num_refused"]) == (4, 1)
    assert (found["num_embedded_anew"], found["num_failed"]) == (0, 0)
