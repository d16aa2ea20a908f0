"""The page of a benchmark: one file with plots and tables, readable without a network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from rlcap.bench.figures import SETTINGS, Change, changes, in_words, label_of, rows_of
from rlcap.report.page import render_page
from rlcap.report.plots import FAINT, INK, LINE, inline_svg


@dataclass(frozen=True, slots=True)
class Bars:
    """One figure of every row, as horizontal bars."""

    title: str
    svg: Markup
    description: str
    """What a reader sees who cannot see it."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a benchmark."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Label first."""
    plots: tuple[Bars, ...]


def render_bench(title: str, figures: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> str:
    """Return the page on what the `--json` of a benchmark holds, beside an earlier one where there is one."""
    tables = [_table(name, rows_of(value)) for name, value in figures.items() if rows_of(value)]
    compared: list[Change] = changes(earlier, figures) if earlier else []
    return render_page(
        "bench.html.jinja",
        title=title,
        hardware=figures["hardware"],
        figures=[
            (in_words(name), _shown(value))
            for name, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ],
        tables=tables,
        changes=[(one.name, _shown(one.old), _shown(one.new), _shown(one.ratio)) for one in compared],
    )


def _table(name: str, rows: Sequence[Mapping[str, object]]) -> Table:
    measured = [key for key in rows[0] if key not in SETTINGS]
    numeric = [key for key in measured if all(isinstance(row.get(key), int | float) for row in rows)]
    labels = [label_of(row) for row in rows]
    return Table(
        name=in_words(name),
        columns=tuple(in_words(key) for key in measured),
        rows=tuple(
            (label, *(_shown(row.get(key)) for key in measured)) for label, row in zip(labels, rows, strict=True)
        ),
        plots=tuple(
            _bars(f"{name}-{key}", in_words(key), labels, [float(str(row[key])) for row in rows]) for key in numeric
        ),
    )


def _bars(prefix: str, title: str, labels: Sequence[str], values: Sequence[float]) -> Bars:
    figure = Figure(figsize=(3.4, 0.35 + 0.42 * len(values)))
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    places = range(len(values))
    axes.barh(places, values, height=0.34, color=LINE)
    for place, label, value in zip(places, labels, values, strict=True):
        axes.text(0, place - 0.27, f"{label}  {_shown(value)}", fontsize=8, color=INK, va="bottom")
    axes.axvline(0, color=FAINT, linewidth=1)
    axes.set_ylim(len(values) - 0.7, -0.8)
    axes.set_xlim(min(0.0, *values), max(*values, 0.0) or 1.0)
    axes.axis("off")
    described = ", ".join(f"{label} {_shown(value)}" for label, value in zip(labels, values, strict=True))
    return Bars(title, Markup(inline_svg(figure, prefix=re.sub(r"\W", "-", prefix))), f"{title}: {described}")


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
