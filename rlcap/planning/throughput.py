"""What to expect of a plan, from the figures of a benchmark."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from rlcap.errors import DataError


@dataclass(frozen=True, slots=True)
class Expectation:
    """Captions per second, and where the figure comes from."""

    captions_per_s: float
    basis: str


def expected_throughput(path: Path, num_actors: int) -> Expectation:
    """Read a file that `rlcap bench simulate` or `rlcap bench end-to-end` wrote with `--json`.

    The nearest number of actors that was measured counts, and where it is another one the rate is scaled by their
    ratio: an upper bound, since learner and shards do not grow with it.

    Raises:
        DataError: the file does not hold such figures.
    """
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as damage:
        raise DataError(f"{path} is no file of a benchmark: {damage}") from damage
    measured = _rates(figures)
    if not measured:
        raise DataError(
            f"{path} holds no captions per second by number of actors: write it with `rlcap bench simulate --json "
            "FILE` or `rlcap bench end-to-end --json FILE`"
        )
    nearest = min(measured, key=lambda count: (abs(count - num_actors), count))
    rate = measured[nearest] * num_actors / nearest
    if nearest == num_actors:
        return Expectation(rate, f"measured with {nearest} actors")
    return Expectation(
        rate, f"at most: {measured[nearest]:.1f} captions/s with {nearest} actors, scaled by their number"
    )


def _rates(figures: object) -> dict[int, float]:
    """Captions per second by number of actors, the best where there are several."""
    rates: dict[int, float] = {}
    if not isinstance(figures, Mapping):
        return rates
    for rows in (figures.get("rates"), figures.get("speeds")):
        for row in rows if isinstance(rows, list) else []:
            count, rate = (row.get("num_actors"), row.get("captions_per_s")) if isinstance(row, Mapping) else (0, 0)
            if _is_number(count) and _is_number(rate) and count >= 1 and rate > 0:
                rates[int(count)] = max(float(rate), rates.get(int(count), 0.0))
    return rates


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
