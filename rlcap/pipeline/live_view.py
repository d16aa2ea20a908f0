"""What a PPO run shows of itself while it goes on: a bar and the latest figures where a person looks, else a bar."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlcap.pipeline.progress import CONSOLE, make_bar, progress_bar

_QUEUE = re.compile(r"reward_server/[^/]+/queue")
_UNKNOWN = "–"


@dataclass(frozen=True, slots=True)
class Standing:
    """A run after an update."""

    metrics: Mapping[str, float]
    caption: str
    """The newest sample caption; empty where there is none yet."""
    checkpoint: int
    """The update of the newest checkpoint; 0 where there is none yet."""


Show = Callable[[Standing], None]
"""Called after each update."""


@contextmanager
def live_view(description: str, total: int) -> Iterator[Show]:
    """Show a run of `total` updates; the value is called after each of them."""
    if not CONSOLE.is_terminal:
        with progress_bar(description, total) as advance:
            yield lambda standing: advance(_note(standing.metrics))
        return
    bar = make_bar(CONSOLE)
    task = bar.add_task(description, total=total, note="")
    with Live(bar, console=CONSOLE) as live:

        def show(standing: Standing) -> None:
            bar.update(task, advance=1, note=_note(standing.metrics))
            live.update(Group(bar, figures(standing)), refresh=True)

        yield show


def figures(standing: Standing) -> Table:
    """Lay out what is known of a run, two figures a line."""
    metrics = standing.metrics
    queues = [value for name, value in metrics.items() if _QUEUE.fullmatch(name)]
    cells = {
        "reward": _number(metrics, "rollout/reward_mean", "+.3f", spread="rollout/reward_std"),
        "KL to the baseline": _number(metrics, "rollout/kl_to_reference", ".2f", unit=" nats"),
        "captions/s": _number(metrics, "time/captions_per_s", ".0f"),
        "staleness": _number(metrics, "rollout/staleness", ".1f", unit=" updates"),
        "actors at work": _number(metrics, "actors/present", ".0f"),
        "shards, queue": f"{len(queues)}, {sum(queues):.0f} captions" if queues else _UNKNOWN,
        "waiting for rollouts": _number(metrics, "time/wait_for_rollouts_s", ".2f", unit=" s"),
        "last checkpoint": f"update {standing.checkpoint}" if standing.checkpoint else "none yet",
    }
    table = Table.grid(padding=(0, 2))
    for style in ("dim", "", "dim", ""):
        table.add_column(style=style, no_wrap=True)
    names = list(cells)
    for left, right in zip(names[::2], names[1::2], strict=True):
        table.add_row(left, cells[left], right, cells[right])
    outer = Table.grid()
    outer.add_column(no_wrap=True, overflow="ellipsis")
    outer.add_row(table)
    # A caption may hold what rich takes for markup.
    outer.add_row(Text(f"“{standing.caption}”" if standing.caption else "no sample caption yet", style="italic"))
    return outer


def _number(metrics: Mapping[str, float], name: str, form: str, *, unit: str = "", spread: str = "") -> str:
    if name not in metrics:
        return _UNKNOWN
    deviation = f" ± {metrics[spread]:.3f}" if spread in metrics else ""
    return f"{metrics[name]:{form}}{deviation}{unit}"


def _note(metrics: Mapping[str, float]) -> str:
    return (
        f"reward {metrics.get('rollout/reward_mean', float('nan')):+.2f}  "
        f"KL {metrics.get('rollout/kl_to_reference', float('nan')):.1f}  "
        f"{metrics['time/captions_per_s']:.0f} captions/s"
    )
