"""The page on a fit of the reward model: how well it orders and foretells held-out votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from rlcap.report.figures import percent
from rlcap.report.page import render_page
from rlcap.report.plots import INK, LINE, empty_plot, inline_svg

_AREA = 140.0
"""Area of the largest dot of the calibration, in square points."""


@dataclass(frozen=True, slots=True)
class FitPlot:
    """One figure of the page."""

    svg: Markup
    description: str
    """What a reader sees who cannot see it."""


def render_fit(report: Mapping[str, Any]) -> str:
    """Return the page on what `fit.json` holds."""
    curve = [point for point in report["learning_curve"] if point["accuracy"]]
    return render_page(
        "fit.html.jinja",
        title=report["title"],
        training=report["training"],
        heldout=report["heldout"],
        learning_curve=report["learning_curve"],
        folds=report["folds"],
        calibration_plot=_plot_calibration(report["heldout"]["calibration"]["bins"]),
        curve_plot=_plot_curve(curve) if curve else None,
    )


def _plot_calibration(bins: Sequence[Mapping[str, Any]]) -> FitPlot:
    predicted = np.array([each["predicted"] for each in bins])
    observed = np.array([each["observed"] for each in bins])
    votes = np.array([each["num_votes"] for each in bins])
    figure, axes = empty_plot()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--")
    axes.plot(predicted, observed, color=LINE, linewidth=1.2)
    axes.scatter(predicted, observed, s=_AREA * votes / votes.max(), color=LINE, linewidths=0)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.05, 1.05))
    said = ", ".join(f"{percent(each['observed'])} where {percent(each['predicted'])} was foreseen" for each in bins)
    return FitPlot(Markup(inline_svg(figure, prefix="calibration")), f"Observed share of votes: {said}")


def _plot_curve(points: Sequence[Mapping[str, Any]]) -> FitPlot:
    num_pairs = [point["num_pairs"] for point in points]
    mean, low, high = ([point["accuracy"][key] for point in points] for key in ("mean", "low", "high"))
    figure, axes = empty_plot()
    axes.axhline(0.5, color=INK, linewidth=1, linestyle="--")
    axes.vlines(num_pairs, low, high, color=LINE, linewidth=1)
    axes.plot(num_pairs, mean, color=LINE, linewidth=1.8, marker="o", markersize=4)
    axes.margins(x=0.05)
    said = ", ".join(f"{percent(value)} with {count} pairs" for value, count in zip(mean, num_pairs, strict=True))
    return FitPlot(Markup(inline_svg(figure, prefix="curve")), f"Accuracy: {said}")
