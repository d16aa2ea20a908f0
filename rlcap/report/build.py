"""Writes `report.html`: everything a reader needs in one file, readable without a network."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlcap.report.clips import count_verdicts, heldout_clips, sampled_clips
from rlcap.report.contents import RunContents, read_contents
from rlcap.report.figures import comparisons, duration, flat, number, share, stage_timings, win_rates
from rlcap.report.plots import plot_curves
from rlcap.run_directory import RunDirectory

_MAX_QUARANTINE_ROWS = 200
_MAX_SAMPLED_CLIPS = 12


def build_report(run_dir: Path) -> Path:
    """Write the report of a run from the files in its folder; parts that are missing are said to be."""
    run = RunDirectory(run_dir)
    page = render(read_contents(run))
    fresh = run.report.with_suffix(".partial")
    fresh.write_text(page, encoding="utf-8")
    fresh.replace(run.report)
    return run.report


def render(contents: RunContents) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("rlcap.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": share, "number": number, "duration": duration}
    # The style sheet and the script are ours, and are no HTML: they go in as they stand.
    environment.globals["include_raw"] = lambda name: Markup(_source(environment, name))
    clips = heldout_clips(contents.heldout)
    rates = win_rates(contents.summary)
    return environment.get_template("report.html.jinja").render(
        contents=contents,
        summary=contents.summary,
        headline=next((rate for rate in rates if rate.opponent == "the baseline"), None),
        win_rates=rates,
        comparisons=comparisons(contents.summary),
        stages=stage_timings(contents.summary),
        all_figures=list(flat(contents.summary)),
        plots=[(plot, Markup(plot.svg)) for plot in plot_curves(contents.metrics)],
        num_updates=contents.metrics.num_rows,
        clips=clips,
        verdicts=count_verdicts(clips),
        samples=sampled_clips(contents.samples)[:_MAX_SAMPLED_CLIPS],
        quarantine=contents.quarantine[:_MAX_QUARANTINE_ROWS],
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
