import io
import json

import pytest
from rich.console import Console

from rlcap.pipeline.figures_table import figures_table


@pytest.fixture
def shown(make_run):
    """The table of a finished run on a narrow terminal, line by line."""
    summary = json.loads(make_run(num_updates=2, num_clips=2).summary.read_text())
    console = Console(file=io.StringIO(), width=80)
    console.print(figures_table(summary))
    return console.file.getvalue().splitlines()


def cells(shown, beginning):
    (line,) = [line for line in shown if line.startswith(f"│ {beginning}")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_every_win_rate_is_shown_with_its_interval(shown):
    assert cells(shown, "tuned wins over the baseline  ")[1:] == ["0.712", "0.664 to 0.758"]
    assert cells(shown, "tuned wins over the baseline, where it failed")[1:] == ["0.803", "0.741 to 0.861"]
    assert cells(shown, "tuned wins over supervised fine-tuning")[1:] == ["0.540", "0.487 to 0.595"]
    assert cells(shown, "tuned wins over tuning without hearing")[1:] == ["0.690", "0.640 to 0.740"]
    assert cells(shown, "tuned wins over tuning on the wrong audio")[1:] == ["0.730", ""]


def test_the_other_figures_follow(shown):
    assert cells(shown, "named right tuned")[1] == "0.630"
    assert cells(shown, "mean kl")[1] == "4.170"
    assert not [line for line in shown if "quarantined" in line], "files are no figure of the held-out clips"


def test_it_fits_80_columns_and_nothing_is_cut(shown):
    assert max(map(len, shown)) <= 80
    assert not [line for line in shown if "…" in line]
    assert "held-out clips (synthetic)" in shown[0]
