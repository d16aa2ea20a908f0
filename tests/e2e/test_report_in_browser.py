"""The pages that rlcap writes as a reader meets them: in a browser, from a file, without a network."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from reward_server.fit_evaluation import CurvePoint, FitReport, FoldFigures
from reward_server.heads import MlpHead
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from rlcap.audio.features import LogMelConfig
from rlcap.config.reward import ClapConfig
from rlcap.evaluation.scored_pairs import ScoredPairs, describe_scored_pairs, pair_accuracy
from rlcap.pipeline.reward_comparison import compare_rewards
from rlcap.preferences.pairs import PreferencePair
from rlcap.report.build import build_report
from rlcap.report.fit_page import render_fit
from rlcap.run_directory import RunDirectory

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
CAPTIONS = ("a dog barks", "rain falls", "wind blows")


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@contextmanager
def opened(browser: "playwright.Browser", path: Path) -> Iterator["playwright.Page"]:
    """Open a page that must reach for nothing outside itself, and leave no word in the console."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(20_000)
    spoken: list[str] = []
    page.on("console", lambda message: spoken.append(message.text))
    page.on("pageerror", lambda error: spoken.append(str(error)))
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert spoken == []
    assert [url for url in requested if url != path.as_uri() and not url.startswith("data:")] == []


@pytest.fixture
def page(browser: "playwright.Browser", make_run: Callable[..., RunDirectory]) -> Iterator["playwright.Page"]:
    """The report of a finished run with 12 held-out clips, 11 of them audible."""
    with opened(browser, build_report(make_run(num_clips=12).path)) as page:
        yield page


@pytest.fixture
def fit_page(browser: "playwright.Browser", tmp_path: Path) -> Iterator["playwright.Page"]:
    """What `rlcap reward fit` says of 60 held-out pairs of two categories."""
    scores = np.random.default_rng(0).normal(0.4, 1, 60).astype(np.float32)
    pairs = tuple(
        PreferencePair(f"clip-{number // 3}", "a", "b", (1, 1, -1), category="HM" if number % 2 else "HC")
        for number in range(60)
    )
    scored = ScoredPairs(pairs, scores, np.zeros(60, dtype=np.float32))
    figures, accuracy = describe_scored_pairs(scored), pair_accuracy(scored)
    curve = (CurvePoint(0.5, 20, 45, accuracy), CurvePoint(1.0, 40, 80, accuracy))
    report = asdict(FitReport(heldout=figures, learning_curve=curve, folds=FoldFigures(5, figures)))
    counts = {"num_train_pairs": 90, "num_matching_pairs": 0, "num_validation_pairs": 20, "num_heldout_pairs": 60}
    content = json.loads(json.dumps({"title": "reward-mlp-1", "training": counts, **report}))
    (tmp_path / "fit.html").write_text(render_fit(content), encoding="utf-8")
    with opened(browser, tmp_path / "fit.html") as page:
        yield page


@pytest.fixture
def compare_page(browser: "playwright.Browser", tmp_path: Path) -> Iterator["playwright.Page"]:
    """What `rlcap reward compare` says of two models with random weights, on four clips of a second."""
    sizes = ClapConfig(embedding_dim=16, audio_channels=[4, 4, 4, 4], num_segments=2, text_width=16, num_heads=2)
    clap = SmallClap.for_captions(sizes, CAPTIONS, LogMelConfig(), seed=0)
    for seed in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            ClapReward(clap, MlpHead(16, [8])).save(tmp_path / f"reward-{seed}")
    rows = ["audio,caption"]
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", 0.3 * np.sin(np.arange(16_000) * (number + 1) / 10), 16_000)
        rows += [f"{number}.wav,{caption}" for caption in CAPTIONS]
    (tmp_path / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    page_file = tmp_path / "compare.html"
    compare_rewards(tmp_path / "reward-0", tmp_path / "reward-1", tmp_path / "captions.csv", page_file)
    with opened(browser, page_file) as page:
        yield page


def shown_clips(page: "playwright.Page") -> list[str]:
    return [item.get_attribute("data-clip") for item in page.locator("#clip-list > li:visible").all()]


def test_it_opens_with_its_headline(page: "playwright.Page"):
    assert page.title() == "quickstart-20260101-120000 · rlcap report"
    assert "71%" in page.locator(".headline").inner_text()
    assert page.locator(".plots svg").count() == 7


def test_every_player_has_loaded_its_clip(page: "playwright.Page"):
    players = page.locator("audio")
    assert players.count() == 11
    durations = players.evaluate_all(
        """players => Promise.all(players.map(player => new Promise(resolve => {
            if (player.readyState > 0) resolve(player.duration);
            player.onloadedmetadata = () => resolve(player.duration);
            player.onerror = () => resolve(player.error.message);
        })))"""
    )
    assert durations == [pytest.approx(1.0, abs=0.01)] * 11


def test_a_verdict_can_be_picked_and_taken_back(page: "playwright.Page"):
    page.get_by_text("baseline is better 3").click()
    assert len(shown_clips(page)) == 3
    assert page.locator("#clip-count").inner_text() == "3 of 12 clips"
    page.get_by_text("all 12").click()
    assert len(shown_clips(page)) == 12


def test_the_verdicts_can_be_picked_by_keyboard(page: "playwright.Page"):
    page.locator("input[name=verdict]").first.focus()
    page.keyboard.press("ArrowRight")
    assert len(shown_clips(page)) == 6


def test_words_can_be_searched(page: "playwright.Page"):
    page.get_by_label("Search").fill("Thunder")
    assert shown_clips(page) == ["heldout-00001", "heldout-00007"]
    page.get_by_label("Search").fill("elephant")
    assert page.get_by_text("No clip matches.").is_visible()


def test_clips_can_be_sorted(page: "playwright.Page"):
    page.get_by_label("Sort").select_option("verdict")
    verdicts = [item.get_attribute("data-verdict") for item in page.locator("#clip-list > li").all()]
    assert verdicts == ["baseline"] * 3 + ["tie"] * 3 + ["tuned"] * 6
    page.get_by_label("Sort").select_option("position")
    assert shown_clips(page) == [f"heldout-{index:05d}" for index in range(12)]


@pytest.mark.parametrize("width", [360, 768, 1200])
@pytest.mark.parametrize("name", ["page", "fit_page", "compare_page"])
def test_nothing_sticks_out_at_any_width(name: str, width: int, request: pytest.FixtureRequest):
    page = request.getfixturevalue(name)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("name", "selectors"),
    [
        ("page", ("h1", ".lead", ".facts", ".verdict.tuned", ".mark.wrong", "nav a")),
        ("fit_page", ("h1", ".lead", ".facts", ".headline", "td span", "figcaption span", "nav a")),
        ("compare_page", ("h1", ".lead", ".facts", ".headline", ".mark", ".clip-id", "nav a")),
    ],
)
def test_text_stands_out_from_the_page(
    name: str, selectors: tuple[str, ...], scheme: str, request: pytest.FixtureRequest
):
    page = request.getfixturevalue(name)
    page.emulate_media(color_scheme=scheme)
    for selector in selectors:
        ratio = page.locator(selector).first.evaluate(CONTRAST)
        assert ratio >= 4.5, f"{selector} has contrast {ratio:.1f} in {scheme}"


def test_the_page_of_a_fit_shows_its_figures(fit_page: "playwright.Page"):
    assert fit_page.title() == "reward-mlp-1 · rlcap fit"
    assert re.fullmatch(r"\d+%", fit_page.locator(".headline .figure").inner_text())
    plots = fit_page.locator(".plots svg")
    assert plots.count() == 2
    for plot in plots.all():
        plot.scroll_into_view_if_needed()
        assert plot.bounding_box()["width"] > 200
        assert plot.locator("path, use").count() > 5
    assert "Accuracy: " in fit_page.get_by_role("img").last.get_attribute("aria-label")
    assert "All clips in 5 parts" in fit_page.locator("body").inner_text()


def test_the_numbers_behind_the_calibration_can_be_unfolded(fit_page: "playwright.Page"):
    numbers = fit_page.locator("details table")
    assert not numbers.is_visible()
    fit_page.get_by_text("As numbers").click()
    assert numbers.is_visible()
    assert numbers.locator("tbody tr").count() > 2


def test_the_links_of_a_page_lead_to_their_sections(fit_page: "playwright.Page"):
    for link in fit_page.locator("nav a").all():
        link.click()
        playwright.expect(fit_page.locator(link.get_attribute("href"))).to_be_in_viewport()


def test_the_page_on_two_models_shows_how_far_they_agree(compare_page: "playwright.Page"):
    assert re.fullmatch(r"\d+%", compare_page.locator(".headline .figure").inner_text())
    cards = compare_page.locator(".cards dd").all_inner_texts()
    assert re.fullmatch(r"-?[01]\.\d\d", cards[0])
    assert cards[1:] == ["12", "12"]
    assert compare_page.locator(".clips > li").count() == compare_page.locator("audio").count() > 0


def test_a_clip_on_which_two_models_disagree_can_be_played(compare_page: "playwright.Page"):
    player = compare_page.locator("audio").first
    player.evaluate("player => { player.heard = new Promise(heard => { player.onended = heard; }); }")
    player.focus()
    compare_page.keyboard.press("Space")
    told = player.evaluate("player => player.heard.then(() => [player.error, player.currentTime, player.duration])")
    assert told == [None, pytest.approx(1.0, abs=0.01), pytest.approx(1.0, abs=0.01)]


CONTRAST = """element => {
    const rgb = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const luminance = colour => rgb(colour).map(c => c / 255)
        .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const backing = e => {
        const colour = getComputedStyle(e).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" && e.parentElement ? backing(e.parentElement) : colour;
    };
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(backing(element))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
}"""
"""WCAG 2 contrast between the text of an element and what lies behind it."""
