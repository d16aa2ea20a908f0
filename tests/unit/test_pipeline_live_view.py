"""What a person sees of a run, and what a log does."""

import io

import pytest
from rich.console import Console

from rlcap.pipeline import live_view, progress
from rlcap.pipeline.live_view import Standing, figures

METRICS = {
    "rollout/reward_mean": 0.534,
    "rollout/reward_std": 0.2,
    "rollout/kl_to_reference": 1.25,
    "time/captions_per_s": 118.0,
    "rollout/staleness": 0.5,
    "actors/present": 3.0,
    "reward_server/shard-0/queue": 4.0,
    "reward_server/shard-1/queue": 8.0,
    "reward_server/replaced": 1.0,
    "time/wait_for_rollouts_s": 0.42,
}
STANDING = Standing(METRICS, "a dog barks [/red] twice", checkpoint=10)


@pytest.fixture
def console(monkeypatch):
    def make(**settings):
        made = Console(file=io.StringIO(), color_system=None, **settings)
        monkeypatch.setattr(progress, "CONSOLE", made)
        monkeypatch.setattr(live_view, "CONSOLE", made)
        return made

    return make


def shown(standing, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(figures(standing))
    return console.file.getvalue().splitlines()


def test_the_figures_of_an_update_stand_side_by_side_above_its_caption():
    lines = [" ".join(line.split()) for line in shown(STANDING, width=100)]
    assert lines == [
        "reward +0.534 ± 0.200 KL to the baseline 1.25 nats",
        "captions/s 118 staleness 0.5 updates",
        "actors at work 3 shards, queue 2, 12 captions",
        "waiting for rollouts 0.42 s last checkpoint update 10",
        "“a dog barks [/red] twice”",
    ]


def test_what_is_not_known_yet_is_said_and_not_made_up():
    text = " ".join(" ".join(shown(Standing({"time/captions_per_s": 1.0}, "", checkpoint=0), width=100)).split())
    assert "reward – KL to the baseline –" in text
    assert "shards, queue –" in text
    assert "last checkpoint none yet" in text
    assert "no sample caption yet" in text


@pytest.mark.parametrize("width", [80, 125])
def test_a_long_caption_takes_one_line_of_the_terminal(width):
    lines = shown(Standing(METRICS, "rain falls and " * 30, checkpoint=10), width)
    assert len(lines) == 5
    assert max(map(len, lines)) <= width
    assert lines[-1].endswith("…")


def test_a_terminal_shows_the_bar_and_the_latest_figures(console):
    made = console(width=100, force_terminal=True)
    with live_view.live_view("PPO (main)", 2) as show:
        show(STANDING)
        show(Standing({**METRICS, "rollout/reward_mean": 0.75}, "a cat meows", checkpoint=11))
    last = made.file.getvalue().rpartition("PPO (main)")[2]
    assert "2/2" in last
    assert "+0.750" in last
    assert "update 11" in last
    assert "a cat meows" in last
    assert "a dog barks" not in last


def test_a_log_gets_the_bar_alone_once(console):
    made = console(width=100)
    with live_view.live_view("PPO (main)", 2) as show:
        show(STANDING)
        show(STANDING)
    lines = [line for line in made.file.getvalue().splitlines() if line.strip()]
    assert len(lines) == 1
    assert "2/2" in lines[0]
    assert "reward +0.53  KL 1.2" in lines[0]
