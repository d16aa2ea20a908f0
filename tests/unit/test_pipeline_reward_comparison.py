import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from reward_server.heads import MlpHead
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from rlcap.audio.features import LogMelConfig
from rlcap.commands.main import run
from rlcap.config.reward import ClapConfig
from rlcap.report import clips as report_clips

CLAP = ClapConfig(embedding_dim=16, audio_channels=[4, 4, 4, 4], num_segments=2, text_width=16, num_heads=2)
CAPTIONS = ("a dog barks", "rain falls", "<b>noise</b>", "wind")
COMMAND = ["reward", "compare", "one", "other", "captions.csv"]


def save_reward(path: Path, seed: int) -> None:
    clap = SmallClap.for_captions(CLAP, CAPTIONS, LogMelConfig(), seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ClapReward(clap, MlpHead(16, [8])).save(path)


@pytest.fixture(autouse=True)
def _in_a_folder_with_recordings_and_two_reward_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    rows = []
    for number in range(6):
        waveform = 0.3 * np.sin(np.arange(16_000) * (number + 1) / 10)
        soundfile.write(f"{number}.wav", waveform, 16_000)
        rows += [f"{number}.wav,{caption}\n" for caption in CAPTIONS]
    Path("captions.csv").write_text("audio,caption\n" + "".join(rows), encoding="utf-8")
    save_reward(Path("one"), seed=0)
    save_reward(Path("other"), seed=1)


def test_two_models_are_held_against_each_other(capsys: pytest.CaptureFixture[str]):
    assert run([*COMMAND, "--out", "out/compare.html"]) == 0
    told = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:])
    assert told["captions that both score"] == "24"
    assert told["pairs of captions of a clip"] == "36"
    page = Path("out/compare.html").read_text(encoding="utf-8")
    num_pairs = page.count("A prefers")
    assert float(told["in the same order"].rstrip("%")) == pytest.approx(100 * (1 - num_pairs / 36), abs=0.06)
    assert page.count('src="data:audio/flac') == num_pairs > 0
    assert "&lt;b&gt;noise&lt;/b&gt;" in page
    assert "<b>noise</b>" not in page
    assert all(value.startswith(("#", "data:")) for value in re.findall(r'(?:src|href)="([^"]*)"', page))


def test_a_model_agrees_with_itself(capsys: pytest.CaptureFixture[str]):
    assert run(["reward", "compare", "one", "one", "captions.csv"]) == 0
    assert "in the same order  100.0%" in re.sub(r" {2,}", "  ", capsys.readouterr().out)
    assert "There are none." in Path("compare.html").read_text(encoding="utf-8")


def test_rows_without_a_score_are_left_out_and_counted(capsys: pytest.CaptureFixture[str]):
    Path("3.wav").write_bytes(b"no audio")
    assert run(COMMAND) == 1
    assert "4 rows are left out" in capsys.readouterr().err
    assert "4 rows are left out" in Path("compare.html").read_text(encoding="utf-8")


def test_audio_beyond_the_budget_goes_without_a_player(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report_clips, "MAX_AUDIO_BYTES", 40_000)
    assert run(COMMAND) == 0
    page = Path("compare.html").read_text(encoding="utf-8")
    assert 0 < page.count('src="data:audio/flac') < page.count("A prefers")
    assert "no audio in this page" in page


def test_what_cannot_be_compared_is_said(capsys: pytest.CaptureFixture[str]):
    assert run([*COMMAND, "--out", "compare.csv"]) == 1
    assert "--out must name an .html file, got compare.csv" in capsys.readouterr().err
    for file in Path().glob("*.wav"):
        file.unlink()
    assert run(COMMAND) == 1
    assert "none of the 24 rows is scored by both models; the first, 0.wav: missing file" in capsys.readouterr().err
