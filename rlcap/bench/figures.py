"""The figures of a benchmark by name, and how they compare with those of an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SETTINGS = (
    "policy",
    "workload",
    "variant",
    "reader",
    "trainer",
    "num_actors",
    "num_shards",
    "num_learners",
    "max_staleness",
    "captions_per_request",
    "hit_rate",
)
"""What tells one row of a benchmark from another; the rest of a row was measured."""
_NOT_COMPARED = ("hardware", "rounds")


@dataclass(frozen=True, slots=True)
class Change:
    """One figure then and now."""

    name: str
    old: float
    new: float

    @property
    def ratio(self) -> float | None:
        """New over old; None where the old one is 0."""
        return self.new / self.old if self.old else None


def changes(old: Mapping[str, object], new: Mapping[str, object]) -> list[Change]:
    """Return every figure that both benchmarks have, in the order of the new one."""
    before = dict(named_figures(old))
    return [Change(name, before[name], value) for name, value in named_figures(new) if name in before]


def named_figures(figures: Mapping[str, object], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number that was measured; those of a row are named by what tells it from the others."""
    for key, value in figures.items():
        if (not above and key in _NOT_COMPARED) or key in SETTINGS:
            continue
        name = f"{above}{key}"
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            yield name, float(value)
        elif isinstance(value, Mapping):
            yield from named_figures(value, f"{name}: ")
        else:
            for row in rows_of(value):
                yield from named_figures(row, f"{label_of(row)}: ")


def rows_of(value: object) -> list[Mapping[str, object]]:
    """Return the rows of a table among the figures; nothing where the value is none."""
    if isinstance(value, list | tuple) and all(isinstance(row, Mapping) for row in value):
        return list(value)
    return []


def label_of(row: Mapping[str, object]) -> str:
    """Say which row it is: words as they are, numbers with their name."""
    told = [(key, row[key]) for key in SETTINGS if key in row]
    return ", ".join(str(value) if isinstance(value, str) else f"{_words(key)} {value:g}" for key, value in told)


def in_words(name: str) -> str:
    """Turn a name of the JSON into words."""
    return name.replace("_per_", " / ").replace("_", " ")


def _words(key: str) -> str:
    return in_words(key.removeprefix("num_"))
