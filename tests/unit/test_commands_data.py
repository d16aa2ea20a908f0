from pathlib import Path

import numpy as np
import pytest
import soundfile

from rlcap.audio.quarantine import QuarantineList
from rlcap.commands.main import run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav", "c.wav"):
        soundfile.write(tmp_path / name, 0.3 * np.sin(np.arange(8_000)), 16_000)
    return tmp_path


def test_rows_that_are_no_clips_are_counted_told_and_listed_beside_clips_that_cannot_be_heard(root, capsys):
    (root / "manifest.csv").write_text("path,kind\na.wav,dog\n,cat\ngone.wav,dog\nb.wav,cat,x\na.wav,dog\n")
    bad = root / "bad.csv"
    assert run(["data", "check", "data.kind=manifest", f"data.root={root}", "--quarantine", str(bad)]) == 0
    told = capsys.readouterr()
    assert "Decoded all 2 recordings; 1 can be used." in told.out
    assert "The others: missing file (1)." in told.out
    assert "No recordings, but left out besides: bad row (2)." in told.out
    assert "Passed over: rows that repeat a clip, whose captions and labels it keeps (1)." in told.out
    assert told.err.splitlines() == [
        "rlcap: manifest.csv, row 2 (line 3): bad row: column 'path': expected text, found nothing",
        "rlcap: manifest.csv, row 4 (line 5): bad row: 3 cells, the header has 2: put cells that hold a comma in "
        "quotes; the row begins with 'b.wav'",
        "rlcap: gone.wav: missing file",
    ]
    assert len(QuarantineList.load(bad)) == 3


def test_what_a_folder_passes_over_is_no_complaint(root, capsys):
    (root / "link").symlink_to(root)
    (root / ".hidden").touch()
    assert run(["data", "check", "data.kind=folder", f"data.root={root}"]) == 0
    told = capsys.readouterr()
    assert "Passed over: hidden files and folders (1), linked folders (1)." in told.out
    assert told.err == ""
