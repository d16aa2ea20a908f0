"""Learning curves as inline SVG that takes its colours from the page, in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

INK, LINE, FAINT, GRID = "#010203", "#010204", "#010205", "#010206"
_CSS_COLOURS = {INK: "var(--muted)", LINE: "var(--accent)", FAINT: "var(--accent-faint)", GRID: "var(--rule)"}
"""Colours that nothing else uses, and what each becomes in the page."""

_MIN_POINTS_TO_SMOOTH = 24


@dataclass(frozen=True, slots=True)
class Curve:
    """What to plot, and how to say it."""

    metric: str
    title: str
    meaning: str


CURVES = (
    Curve("rollout/reward_mean", "Reward", "Mean score of the sampled captions by the reward model."),
    Curve("rollout/kl_to_reference", "KL to the reference", "How far the captioner has moved from its start, in nats."),
    Curve("rollout/caption_length", "Caption length", "Mean number of tokens; a drift here can be reward hacking."),
    Curve("learner/entropy", "Entropy", "How undecided the captioner is, in nats a token; at zero it stops exploring."),
    Curve("rollout/distinct_captions", "Distinct captions", "Share of different captions in a batch."),
    Curve("rollout/truncated", "Truncated captions", "Share of captions that the length limit ended."),
    Curve("learner/clip_fraction", "Clip fraction", "Share of tokens whose probability ratio left the trust region."),
    Curve("learner/approx_kl", "KL of an update", "How far one update moves the captioner, in nats a token."),
    Curve("learner/policy_loss", "Policy loss", "The clipped surrogate objective."),
    Curve("learner/value_loss", "Value loss", "Squared error of the critic."),
    Curve(
        "learner/explained_variance", "Explained variance", "Share of the returns' variance that the critic foresees."
    ),
    Curve("learner/grad_norm", "Gradient norm", "Of the policy, before clipping."),
    Curve("learner/value_grad_norm", "Gradient norm of the critic", "Before clipping, which is its own."),
    Curve("rollout/staleness", "Staleness", "Updates by which rollouts lag behind the learner."),
    Curve("rollout/failed", "Failed scores", "Scores that could not be had; their rollouts are left out."),
    Curve("time/captions_per_s", "Throughput", "Captions a second, end to end."),
)
"""Those that a run has recorded are shown, in this order."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure of the page."""

    curve: Curve
    svg: str
    description: str
    """What a reader sees who cannot see it."""


def plot_curves(metrics: pa.Table, curves: Sequence[Curve] = CURVES) -> list[Plot]:
    """Draw each curve that has been recorded."""
    plots = []
    for curve in curves:
        if curve.metric not in metrics.column_names:
            continue
        updates = metrics["update"].to_numpy().astype(np.float64)
        values = metrics[curve.metric].to_numpy().astype(np.float64)
        known = np.isfinite(values)
        if known.any():
            plots.append(_plot(curve, updates[known], values[known]))
    return plots


def _plot(curve: Curve, updates: NDArray[np.float64], values: NDArray[np.float64]) -> Plot:
    description = (
        f"{curve.title}: {values[0]:.3g} at update {updates[0]:.0f}, {values[-1]:.3g} at update {updates[-1]:.0f}, "
        f"between {values.min():.3g} and {values.max():.3g}"
    )
    figure, axes = empty_plot()
    if len(values) < _MIN_POINTS_TO_SMOOTH:
        axes.plot(updates, values, color=LINE, linewidth=1.8, marker="o", markersize=2.5)
    else:
        axes.plot(updates, values, color=FAINT, linewidth=1)
        axes.plot(updates, _smooth(values), color=LINE, linewidth=1.8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return Plot(curve, inline_svg(figure, prefix=re.sub(r"\W", "-", curve.metric)), description)


def empty_plot() -> tuple[Figure, Axes]:
    """Return a figure and its axes, in the look of the page."""
    figure = Figure(figsize=(3.4, 1.9))
    axes = figure.add_axes((0.13, 0.16, 0.845, 0.78))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=INK, length=0, labelsize=8, pad=4)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.02, y=0.12)
    return figure, axes


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over a centred window of a tenth of the run; at the ends over what there is of it."""
    half = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    centres = np.arange(len(values))
    first, last = np.maximum(centres - half, 0), np.minimum(centres + half + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first))


def inline_svg(figure: Figure, prefix: str) -> str:
    """Return an `<svg>` element without metadata, fixed size, fixed colours, or ids that clash with another plot's."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rlcap"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 aria-hidden="true"', svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for colour, variable in _CSS_COLOURS.items():
        svg = svg.replace(colour, variable)
    return svg
