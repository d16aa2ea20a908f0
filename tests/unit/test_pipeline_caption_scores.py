import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from pyarrow import csv

from reward_server.heads import MlpHead
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from rlcap.audio.features import LogMelConfig
from rlcap.commands.main import run
from rlcap.config.reward import ClapConfig
from rlcap.config.run import RunConfig
from rlcap.run_directory import create_run_directory
from rlcap.types import Clip

CLAP = ClapConfig(embedding_dim=16, audio_channels=[4, 4, 4, 4], num_segments=2, text_width=16, num_heads=2)
CAPTIONS = ["a dog barks", "rain, falls", ""]
TABLE = 'audio,caption\nlow.wav,a dog barks\nhigh.wav,a dog barks\nlow.wav,"rain, falls"\nlow.wav,\n'


def save_reward(path: Path, seed: int = 0) -> ClapReward:
    clap = SmallClap.for_captions(CLAP, ["a dog barks", "rain falls"], LogMelConfig(), seed=seed)
    reward = ClapReward(clap, MlpHead(16, [8]))
    reward.save(path)
    return reward


def write_tone(path: Path, hz: float) -> None:
    soundfile.write(path, 0.3 * np.sin(np.arange(16_000) * hz * 2 * np.pi / 16_000), 16_000)


@pytest.fixture(autouse=True)
def _in_a_folder_with_recordings_and_a_reward_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write_tone(Path("data/low.wav"), 300)
    write_tone(Path("data/high.wav"), 2000)
    Path("data/captions.csv").write_text(TABLE, encoding="utf-8")
    save_reward(Path("reward"))


def expected(name: str, captions: list[str]) -> np.ndarray:
    waveform, rate = soundfile.read(f"data/{name}", dtype="float32")
    reward = ClapReward.load(Path("reward"))
    return reward.score(reward.embed_audio([Clip(name, waveform, rate)]), captions, np.zeros(len(captions), np.int64))


def test_every_row_gets_the_score_of_its_own_audio_and_caption(capsys: pytest.CaptureFixture[str]):
    assert run(["reward", "score", "reward", "data/captions.csv", "out/scores.parquet"]) == 0
    version = ClapReward.load(Path("reward")).version
    assert capsys.readouterr().out == f"out/scores.parquet: 4 scores by reward version {version}\n"
    table = pq.read_table("out/scores.parquet")
    assert table.column_names == ["audio", "caption", "score", "reward_version", "reason"]
    assert table["caption"].to_pylist() == ["a dog barks", "a dog barks", "rain, falls", ""]
    scores = table["score"].to_numpy()
    np.testing.assert_allclose(scores[[0, 2, 3]], expected("low.wav", CAPTIONS), atol=1e-5)
    np.testing.assert_allclose(scores[[1]], expected("high.wav", CAPTIONS[:1]), atol=1e-5)
    assert set(table["reward_version"].to_pylist()) == {version}


def test_audio_that_cannot_be_read_leaves_a_reason_and_never_a_number(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    write_tone(tmp_path / "outside.wav", 300)
    Path("data/broken.wav").write_bytes(b"no audio")
    rows = [("low.wav", "rain"), ("broken.wav", "rain"), ("gone.wav", "rain"), ("../outside.wav", "rain")]
    lines = [json.dumps({"audio": audio, "caption": caption}) for audio, caption in rows]
    Path("data/captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert run(["reward", "score", "reward", "data/captions.jsonl", "scores.csv"]) == 1
    assert "3 of 4 rows have no score, the first being broken.wav:" in capsys.readouterr().err
    table = csv.read_csv("scores.csv")
    scores = table["score"].to_pylist()
    assert isinstance(scores[0], float)
    assert scores[1:] == [None, None, None]
    reasons = table["reason"].to_pylist()
    assert reasons[0] == ""
    assert all(reasons[1:])
    assert reasons[3] == "path leads out of the root folder"
    assert run(["reward", "score", "reward", "data/captions.jsonl", "scores.jsonl"]) == 1
    found = [json.loads(line) for line in Path("scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["score"] is None for row in found] == [False, True, True, True]


def test_the_reward_model_of_a_run_is_found_and_its_limits_hold(capsys: pytest.CaptureFixture[str]):
    config = RunConfig(run_dir="runs/bees")
    config.data.max_duration_s = 0.5
    save_reward(create_run_directory(config).reward)
    assert run(["reward", "score", "runs/bees", "data/captions.csv", "scores.csv"]) == 1
    assert "4 of 4 rows have no score, the first being low.wav: longer than 0.5 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["data", "data/captions.csv", "scores.csv"], "data is neither a reward model nor a run that has one"),
        (["reward", "data/captions.csv", "scores.txt"], "scores are written as .csv, .jsonl, .parquet; got scores.txt"),
        (["reward", "data/captions.csv", "data/captions.csv"], "is there already"),
        (["reward", "data/gone.csv", "scores.csv"], "there is no file data/gone.csv"),
    ],
)
def test_what_cannot_be_scored_is_said_and_nothing_is_written(
    arguments: list[str], fault: str, capsys: pytest.CaptureFixture[str]
):
    assert run(["reward", "score", *arguments]) == 1
    assert fault in capsys.readouterr().err
    assert not Path("scores.csv").exists()


def test_a_row_without_text_keeps_its_place_and_has_a_reason(capsys: pytest.CaptureFixture[str]):
    rows = [
        {"audio": "low.wav", "caption": None},
        {"audio": 7, "caption": "x"},
        {"audio": "low.wav", "caption": "rain"},
    ]
    lines = [*map(json.dumps, rows), "[]"]
    Path("data/captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert run(["reward", "score", "reward", "data/captions.jsonl", "scores.jsonl"]) == 1
    found = [json.loads(line) for line in Path("scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["score"] is None for row in found] == [True, True, False, True]
    assert found[0]["reason"] == "bad row: row 1 (line 1), column 'caption': expected text, found nothing"
    assert "3 of 4 rows have no score, the first being bad row: row 1 (line 1)" in capsys.readouterr().err
