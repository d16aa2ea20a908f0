import json
import re

import pytest

from rlcap.bench.bottleneck import find_bottleneck
from rlcap.bench.figures import changes, named_figures
from rlcap.commands.main import run

ACTIONS = ("end-to-end", "sampler", "learner", "reward", "swap", "weights", "audio")
HARDWARE = {
    "processor": "a machine",
    "num_cores": 2,
    "memory_gb": 8.0,
    "gpu": "",
    "python": "3.11.7",
    "packages": {"torch": "2.11.0"},
}


@pytest.fixture
def tiny_audio(tmp_path, monkeypatch):
    """Return a function that runs the smallest benchmark there is, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlcap.bench.audio_bench.PROBE_S", 0.0)
    tiny = ["--clips", "20", "--seconds", "0.2", "--rounds", "1", "--without-ray-data"]
    return lambda *arguments: run(["bench", "audio", *tiny, *arguments])


@pytest.mark.parametrize("action", ACTIONS)
def test_help_of_a_benchmark_teaches(action, capsys):
    with pytest.raises(SystemExit) as left:
        run(["bench", action, "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert f"rlcap bench {action}" in told.partition("examples:")[2]
    assert all(word in told for word in ("reads:", "writes:", "--json", "--html", "--compare"))


def test_figures_go_to_the_terminal_a_file_and_a_page_and_beside_earlier_ones(tiny_audio, tmp_path, capsys):
    assert tiny_audio("--json", "old.json") == 0
    old = json.loads((tmp_path / "old.json").read_text())
    assert [row["reader"] for row in old["speeds"]] == ["clip store", "manifest", "parquet", "webdataset"]
    for row in old["speeds"]:
        assert row["us_per_clip"] == pytest.approx(1e6 / row["clips_per_s"])
        assert row["audio_s_per_s"] == pytest.approx(0.2 * row["clips_per_s"])
    assert old["hardware"]["packages"]["torch"]
    capsys.readouterr()
    assert tiny_audio("--compare", "old.json", "--json", "new.json", "--html", "page.html") == 0
    told = capsys.readouterr().out
    new = json.loads((tmp_path / "new.json").read_text())
    ratio = new["speeds"][2]["clips_per_s"] / old["speeds"][2]["clips_per_s"]
    (line,) = re.findall(r"parquet: clips_per_s +.*", told)
    assert float(line.split()[-1]) == pytest.approx(ratio, abs=0.006)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 4
    assert "Beside the earlier run" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--json", "nowhere/new.json"], "there is no folder nowhere to write new.json to"),
        (["--compare", "missing.json"], "missing.json cannot be read as the --json of an earlier run"),
        (["--compare", "other.json"], "other.json is no --json of an earlier run"),
    ],
)
def test_files_that_cannot_be_used_are_refused_before_anything_is_measured(
    tiny_audio, tmp_path, arguments, complaint, capsys
):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SystemExit) as left:
        tiny_audio(*arguments)
    assert left.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["audio", "--clips", "0"], "--clips and --rounds must be above 0"),
        (["weights", "--actors", "0"], "--megabytes, --actors and --rounds must be above 0"),
        (["weights", "--megabytes", "1e9"], "give a smaller --megabytes or fewer --actors"),
    ],
)
def test_numbers_out_of_range_are_refused_in_a_sentence(arguments, complaint, capsys):
    assert run(["bench", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_rows_are_compared_by_what_they_are_and_not_by_where_they_stand():
    rows = [{"policy": "2x128", "num_actors": count, "tokens_per_s": 100.0 * count} for count in (1, 2)]
    old = {"hardware": HARDWARE, "speeds": rows, "share": {"2x128": 0.5}, "rounds": [[1.0, 2.0]]}
    faster = [{**row, "tokens_per_s": 3 * row["tokens_per_s"]} for row in rows]
    new = {"hardware": HARDWARE, "speeds": faster[::-1], "share": {"2x128": 0.0}}
    found = {change.name: change.ratio for change in changes(old, new)}
    assert found == {
        "2x128, actors 2: tokens_per_s": 3.0,
        "2x128, actors 1: tokens_per_s": 3.0,
        "share: 2x128": 0.0,
    }
    assert changes(new, old)[-1].ratio is None
    assert dict(named_figures(old))["2x128, actors 1: tokens_per_s"] == 100.0


@pytest.mark.parametrize(
    ("changed", "setting"),
    [
        ({"cores_busy": 0.99}, "more cores"),
        ({"max_staleness": 0, "learner_idle": 0.6, "actor_idle": 0.4}, "cluster.max_staleness=1"),
        ({"learner_idle": 0.02, "actor_idle": 0.5}, "cluster.num_learners"),
        ({"learner_idle": 0.5, "actor_idle": 0.02}, "cluster.num_actors"),
        ({"learner_idle": 0.5, "actor_idle": 0.02, "reward_share": 0.7}, "reward.num_shards"),
    ],
)
def test_what_holds_a_run_up_is_named_with_the_setting_to_change(changed, setting):
    idle = {"max_staleness": 1, "learner_idle": 0.0, "actor_idle": 0.0, "cores_busy": 0.5, "reward_share": 0.1}
    assert setting in find_bottleneck(**{**idle, **changed})


@pytest.mark.parametrize("option", ["--actors", "--megabytes"])
def test_a_sweep_is_given_with_commas(option, capsys):
    with pytest.raises(SystemExit) as left:
        run(["bench", "weights", option, "1;2"])
    assert left.value.code == 2
    assert "expected numbers such as" in capsys.readouterr().err
