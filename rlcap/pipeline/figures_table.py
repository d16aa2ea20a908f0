"""The key figures of a run as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from rlcap.report.figures import win_rates


def figures_table(summary: Mapping[str, Any]) -> Table:
    """Lay out `summary.json`: every win rate of tuned with its interval, controls included, then the other figures."""
    table = Table(title="held-out clips" + (" (synthetic)" if summary["synthetic"] else ""))
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for rate in win_rates(summary):
        interval = "" if rate.low is None or rate.high is None else f"{rate.low:.3f} to {rate.high:.3f}"
        table.add_row(f"tuned wins over {rate.opponent}", f"{rate.rate:.3f}", interval)
    for name, value in summary.items():
        if isinstance(value, float) and not name.startswith(("win_rate", "captions_per_s")):
            table.add_row(name.replace("_", " "), f"{value:z.3f}", "")
    return table
