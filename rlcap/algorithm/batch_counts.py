"""How many batches of a run did not go straight from an actor into an update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields


@dataclass(slots=True)
class BatchCounts:
    """Counts from the start of a run, over all its processes."""

    lost: int = 0
    """Asked for again, since an actor or a node was lost."""
    skipped: int = 0
    """No clip of theirs could be used."""
    rescored: int = 0
    """Sampled again after a swap of the reward model, which their update came behind."""
    doubled: int = 0
    """Asked of a second actor, since the first was late."""

    def metrics(self) -> dict[str, float]:
        """Return them under the names of metrics."""
        return {_metric(name): float(count) for name, count in asdict(self).items()}

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, float]) -> BatchCounts:
        """Count on from what `metrics` gave."""
        return cls(**{field.name: int(metrics.get(_metric(field.name), 0)) for field in fields(cls)})


def _metric(name: str) -> str:
    return f"actors/{name}_batches"
