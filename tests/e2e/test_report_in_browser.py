"""The report as a reader meets it: in a browser, from a file, without a network."""

import shutil
from collections.abc import Callable, Iterator

import pytest

from rlcap.report.build import build_report
from rlcap.run_directory import RunDirectory

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "playwright.Browser", make_run: Callable[..., RunDirectory]) -> Iterator["playwright.Page"]:
    """The report of a finished run with 12 held-out clips, 11 of them audible; fails on any word in the console."""
    report = build_report(make_run(num_clips=12).path)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(20_000)
    spoken: list[str] = []
    page.on("console", lambda message: spoken.append(message.text))
    page.on("pageerror", lambda error: spoken.append(str(error)))
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert spoken == []
    left = [url for url in requested if url != report.as_uri() and not url.startswith("data:")]
    assert left == []


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
def test_nothing_sticks_out_at_any_width(width: int, page: "playwright.Page"):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page(scheme: str, page: "playwright.Page"):
    page.emulate_media(color_scheme=scheme)
    for selector in ("h1", ".lead", ".facts", ".verdict.tuned", ".mark.wrong", "nav a"):
        ratio = page.locator(selector).first.evaluate(CONTRAST)
        assert ratio >= 4.5, f"{selector} has contrast {ratio:.1f} in {scheme}"


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
