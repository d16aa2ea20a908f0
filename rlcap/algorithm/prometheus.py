"""Metrics of a run as Prometheus gauges, by way of the exporter that every Ray node has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ray.util.metrics import Gauge

EXPORTED_PREFIX = "ray_"
"""Ray puts it in front of the names of its users."""
_RUN, _SHARD, _STALENESS = "run", "shard", "staleness"
_OF_A_SHARD = re.compile(r"reward_server/(?P<shard>[^/]+)/(?P<metric>\w+)")
_STALENESS_SHARE = re.compile(r"rollout/staleness_share_(?P<staleness>\d+)")


@dataclass(frozen=True, slots=True)
class GaugeName:
    """Under which name a metric is exported, without Ray's prefix, and with which tags beside that of the run."""

    name: str
    tags: dict[str, str] = field(default_factory=dict)


def gauge_name(metric: str) -> GaugeName:
    """Map a metric to its gauge: `rollout/reward_mean` to `rlcap_rollout_reward_mean`, shards to a tag."""
    if of_a_shard := _OF_A_SHARD.fullmatch(metric):
        return GaugeName(f"rlcap_reward_server_{of_a_shard['metric']}", {_SHARD: of_a_shard["shard"]})
    if share := _STALENESS_SHARE.fullmatch(metric):
        return GaugeName("rlcap_rollout_staleness_share", {_STALENESS: share["staleness"]})
    return GaugeName("rlcap_" + re.sub(r"\W", "_", metric))


class PrometheusTracker:
    """Sets one gauge a metric, tagged by the run; needs a Ray session, and the numbers live as long as it does."""

    def __init__(self, run_name: str) -> None:
        self._run_name = run_name
        self._gauges: dict[str, Gauge] = {}

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        """Set the gauges to the metrics of an update, and `rlcap_update` to its number."""
        for metric, value in {"update": float(update), **metrics}.items():
            mapped = gauge_name(metric)
            self._gauge(mapped, metric).set(float(value), {_RUN: self._run_name, **mapped.tags})

    def close(self) -> None:
        """Leave the last numbers to Ray, which lets go of them when the driver ends."""

    def _gauge(self, mapped: GaugeName, metric: str) -> Gauge:
        if mapped.name not in self._gauges:
            self._gauges[mapped.name] = Gauge(mapped.name, description=metric, tag_keys=(_RUN, *mapped.tags))
        return self._gauges[mapped.name]
