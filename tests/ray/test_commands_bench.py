"""Benchmarks as commands, in their smallest settings: that they run, and that their figures agree with one another."""

import json

import pytest

from rlcap.commands.main import run


def test_weights_of_every_kind_reach_every_actor(tmp_path, capsys):
    file = tmp_path / "weights.json"
    assert run(["bench", "weights", "--megabytes", "2", "--actors", "2", "--rounds", "1", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert [row["variant"] for row in found["speeds"]] == ["float32", "bfloat16", "adapters"]
    for row in found["speeds"]:
        assert row["total_ms"] == pytest.approx(row["publish_ms"] + row["put_ms"] + row["load_ms"])
        assert row["delivered_gb_per_s"] == pytest.approx(2 * row["megabytes"] / row["total_ms"])
    whole, half, adapters = (row["megabytes"] for row in found["speeds"])
    assert whole == pytest.approx(2.0, rel=0.01)
    assert half == pytest.approx(whole / 2)
    assert adapters < 0.1 * whole
    assert found["share_of_memory_bandwidth"] == found["speeds"][0]["share_of_memory_bandwidth"] > 0
    assert "float32" in capsys.readouterr().out


def test_a_whole_run_is_measured_beside_a_tight_loop(tmp_path, capsys):
    file, page = tmp_path / "run.json", tmp_path / "run.html"
    small = ["captioner.width=16", "captioner.num_heads=2", "training.clips_per_batch=2", "training.samples_per_clip=2"]
    small += ["sampling.max_new_tokens=4", "reward.num_shards=1", "reward.clap.text_width=16"]
    turns = ["--actors", "2", "--staleness", "1", "--rounds", "1", "--updates", "2", "--threads", "1"]
    assert run(["bench", "end-to-end", *turns, "--json", str(file), "--html", str(page), *small]) == 0
    found = json.loads(file.read_text())
    (row,) = found["speeds"]
    assert found["captions_per_update"] == 4
    assert found["share_of_tight_loop"] == row["share_of_tight_loop"]
    assert row["share_of_tight_loop"] == pytest.approx(row["captions_per_s"] / row["tight_captions_per_s"])
    assert row["reward_queries_per_s"] == row["captions_per_s"]
    assert row["audio_s_per_s"] == pytest.approx(5.0 * row["captions_per_s"] / 2)
    assert row["captions_per_s"] <= row["tokens_per_s"] <= 4 * row["captions_per_s"]
    assert 0 <= row["staleness"] <= row["max_staleness_seen"] <= 1
    assert 0 <= row["learner_idle"] <= 1
    assert 0 <= row["actor_idle"] <= 1
    told = capsys.readouterr().out
    assert "share of tight loop" in told
    assert f"held up by {row['bottleneck']}" in told
    assert page.read_text().count("<svg") > 5


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--actors", "3", "training.clips_per_batch=16"], "--actors must divide training.clips_per_batch (16)"),
        (["--staleness", "-1"], "--staleness 0 or more"),
    ],
)
def test_a_run_that_could_not_be_measured_is_refused_in_a_sentence(arguments, complaint, capsys):
    assert run(["bench", "end-to-end", *arguments]) == 2
    assert complaint in capsys.readouterr().err
