import io

import pytest
from rich.console import Console

from rlcap.pipeline import progress

NOTE = "reward +0.53  KL 1.2  118 captions/s"


@pytest.mark.parametrize("width", [80, 100, 125, 200])
def test_the_bar_and_the_note_fit_the_terminal(monkeypatch, width):
    out = io.StringIO()
    monkeypatch.setattr(progress, "CONSOLE", Console(file=out, width=width, force_terminal=True, color_system=None))
    with progress.progress_bar("PPO (shuffled_audio)", 60) as advance:
        for _ in range(60):
            advance(NOTE)
    last = next(line for line in reversed(out.getvalue().splitlines()) if "PPO" in line)
    assert "━" * 8 in last
    assert "60/60" in last
    assert NOTE in last


def test_a_log_gets_one_line_a_stage(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(progress, "CONSOLE", Console(file=out))
    with progress.progress_bar("listen", 3) as advance:
        for _ in range(3):
            advance("")
    assert [line.split()[0] for line in out.getvalue().splitlines() if line] == ["listen"]
