"""Writes `report.html`: everything a reader needs in one file, readable without a network."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from rlcap.report.clips import count_verdicts, heldout_clips, sampled_clips
from rlcap.report.contents import RunContents, read_contents
from rlcap.report.figures import comparisons, flat, stage_timings, win_rates
from rlcap.report.page import render_page, write_page
from rlcap.report.plots import plot_curves
from rlcap.run_directory import RunDirectory

_MAX_QUARANTINE_ROWS = 200
_MAX_SAMPLED_CLIPS = 12


def build_report(run_dir: Path) -> Path:
    """Write the report of a run from the files in its folder; parts that are missing are said to be."""
    run = RunDirectory(run_dir)
    write_page(render(read_contents(run)), run.report)
    return run.report


def render(contents: RunContents) -> str:
    """Return the page."""
    clips = heldout_clips(contents.heldout)
    rates = win_rates(contents.summary)
    return render_page(
        "report.html.jinja",
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
