import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcap.config.run import RunConfig
from rlcap.config.training import TrackingConfig
from rlcap.metrics import MetricsWriter
from rlcap.report import clips as report_clips
from rlcap.report.build import build_report
from rlcap.report.figures import duration, number, share, win_rates
from rlcap.report.plots import plot_curves
from rlcap.run_directory import RunDirectory, create_run_directory

VOID = {"meta", "link", "input", "br", "path", "use"}


class Page(HTMLParser):
    """Checks that elements close, and collects ids, addresses, and the text outside of script and style."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.ids, self.addresses, self.text = [], [], [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        attributes = dict(attrs)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data


def page_of(run: RunDirectory) -> Page:
    page = Page(build_report(run.path).read_text(encoding="utf-8"))
    page.text = re.sub(r"\s+", " ", page.text)
    return page


def test_a_finished_run_shows_its_figures(make_run: Callable[..., RunDirectory]):
    page = page_of(make_run())
    for part in (
        "Synthetic data.",
        "71% of held-out comparisons go to the tuned captioner",
        "66% to 76%",
        "the baseline, where it failed",
        "tuning without hearing",
        "Right sounds named",
        "KL to the reference",
        "tuned is better 12",
        "a dog barks twice and then a car horn",
        "2 files could not be used",
        "hush.wav",
        "samples_per_clip: 4",
    ):
        assert part in page.text
    assert "No update has been logged" not in page.text


def test_the_page_reaches_for_nothing_outside_itself(make_run: Callable[..., RunDirectory]):
    page = page_of(make_run())
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_the_same_run_gives_the_same_bytes(make_run: Callable[..., RunDirectory]):
    run = make_run(num_updates=5, num_clips=3)
    assert build_report(run.path).read_bytes() == build_report(run.path).read_bytes()


def test_an_empty_run_has_a_report_that_says_so(tmp_path: Path):
    page = page_of(create_run_directory(RunConfig(run_dir=str(tmp_path / "new"))))
    for part in (
        "Not finished.",
        "There is no evaluation yet",
        "No held-out clips have been captioned yet.",
        "No update has been logged yet.",
        "No samples have been taken yet.",
        "None: every file could be used.",
    ):
        assert part in page.text


def test_a_stopped_run_shows_what_it_has_logged(tmp_path: Path):
    run = create_run_directory(RunConfig(run_dir=str(tmp_path / "stopped")))
    MetricsWriter(run, TrackingConfig(tensorboard=False)).log(1, {"rollout/reward_mean": 0.5})
    text = page_of(run).text
    assert "Not finished." in text
    assert "A run that was stopped goes on with rlcap train resume=true run_dir=<its folder>" in text
    assert "Mean score of the sampled captions" in text


@pytest.mark.parametrize("name", ["metrics.parquet", "samples.parquet", "heldout.parquet", "summary.json"])
def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_shown(name: str, make_run: Callable[..., RunDirectory]):
    run = make_run(num_updates=3, num_clips=2)
    (run.path / name).write_bytes(b"\xff nonsense")
    text = page_of(run).text
    assert re.search(rf"{re.escape(name)} (cannot be read|is no readable)", text)
    assert "hush.wav" in text


@pytest.mark.parametrize("value", [None, True, "x", [1], {"a": [1]}, float("nan"), 10**400])
def test_figures_of_another_type_leave_a_report(value: object, make_run: Callable[..., RunDirectory]):
    run = make_run(num_updates=3, num_clips=2)
    names = json.loads(run.summary.read_text())
    run.summary.write_text(json.dumps(dict.fromkeys(names, value)))
    assert "hush.wav" in page_of(run).text


@pytest.mark.parametrize("name", ["reward_history.json", "quarantine.csv"])
def test_a_list_of_another_form_is_named(name: str, make_run: Callable[..., RunDirectory]):
    run = make_run(num_updates=3, num_clips=2)
    (run.path / name).write_text('[{"version": 7}]')
    assert f"{name} cannot be read: " in page_of(run).text


def test_words_from_outside_are_text_and_never_markup(tmp_path: Path):
    run = create_run_directory(RunConfig(run_dir=str(tmp_path / "run")))
    evil = "<script>alert(1)</script>\"'&"
    row = {"clip_id": evil, "truth": evil, "baseline": evil, "tuned": evil, "verdict": evil}
    pq.write_table(pa.Table.from_pylist([row]), run.heldout)
    pq.write_table(pa.Table.from_pylist([{"update": 0, "clip_id": evil, "caption": evil}]), run.samples)
    run.summary.write_text(json.dumps({"experiment": evil, evil: evil}), encoding="utf-8")
    run.quarantine.write_text(f"path,reason\n{evil.split(chr(34))[0]},x\n", encoding="utf-8")
    page = build_report(run.path).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert evil in Page(page).text


def test_audio_beyond_the_budget_goes_without_a_player(
    make_run: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(report_clips, "MAX_AUDIO_BYTES", 60_000)
    page = page_of(make_run(num_updates=1, num_clips=10))
    num_players = sum(address.startswith("data:audio/flac") for address in page.addresses)
    assert 0 < num_players < 9
    assert page.text.count("no audio in this report") == 10 - num_players


def test_bytes_that_are_no_known_audio_get_no_player():
    row = {"clip_id": "a", "audio_flac": b"<html>"}
    assert report_clips.heldout_clips([row])[0].audio == ""


def test_repeated_samples_become_one_line():
    told = ((20, "y", "v1"), (0, "x", "v1"), (10, "x", "v1"), (30, "y", "v2"))
    rows = [
        {"update": update, "clip_id": "a", "caption": text, "reward": 1.0, "reward_version": version}
        for update, text, version in told
    ]
    (clip,) = report_clips.sampled_clips(rows)
    assert [(sample.updates, sample.caption, sample.reward_version) for sample in clip.captions] == [
        ("0–10", "x", "v1"),
        ("20", "y", "v1"),
        ("30", "y", "v2"),
    ]


def test_the_report_names_every_reward_model_that_scored(make_run):
    run = make_run()
    assert "Who scored" not in build_report(run.path).read_text(encoding="utf-8")
    history = [{"version": "v-first", "from_update": 1, "path": "reward"}]
    history.append({"version": "v-second", "from_update": 31, "path": "reward_models/v-second"})
    run.reward_history.write_text(json.dumps(history))
    page = build_report(run.path).read_text(encoding="utf-8")
    assert "Who scored" in page
    assert "<td>31</td><td>v-second</td>" in page


def test_an_interval_decides_what_may_be_said():
    def conclusion(low: float, high: float) -> str:
        return win_rates({"win_rate": 0.5, "win_rate_ci95": [low, high]})[0].conclusion

    assert conclusion(0.51, 0.6) == "tuned is preferred"
    assert conclusion(0.45, 0.55) == "no clear difference"
    assert conclusion(0.3, 0.49) == "tuned is worse"


def test_missing_win_rates_are_left_out():
    assert win_rates({"win_rate": None, "win_rate_vs_supervised": float("nan"), "controls": None}) == []


def test_numbers_read_well():
    assert [share(value) for value in (0.712, 0.004, 0.0, 1.0, None)] == ["71%", "0.4%", "0%", "100%", ""]
    assert [number(value) for value in (4.1743, 12, 123456.7, True)] == ["4.17", "12", "123,457", ""]
    assert [duration(value) for value in (3.21, 148, 7384)] == ["3.2 s", "2 min 28 s", "2 h 3 min"]


def test_a_curve_without_finite_values_is_left_out():
    table = pa.table({"update": [1, 2], "rollout/reward_mean": [None, float("nan")], "learner/entropy": [1.0, None]})
    assert [plot.curve.metric for plot in plot_curves(table)] == ["learner/entropy"]
