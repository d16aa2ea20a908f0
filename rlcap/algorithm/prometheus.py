"""Metrics of a run as Prometheus gauges, by way of the exporter that every Ray node has."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from ray.util.metrics import Gauge

EXPORTED_PREFIX = "ray_"
"""Ray puts it in front of the names of its users."""
REFRESH_S = 5.0
"""Between two settings of the same number."""
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
    """Sets one gauge a metric, tagged by the run; needs a Ray session.

    Ray lets go of a gauge that was not set for two of its intervals, of 10 s: a thread sets them again until the next
    update, which may take longer. So a metric that an update lacks is gone soon, and so are all after the run.
    """

    def __init__(self, run_name: str) -> None:
        self._run_name = run_name
        self._gauges: dict[str, Gauge] = {}
        self._latest: dict[str, float] = {}
        self._lock = threading.Lock()  # held whenever gauges are set
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="prometheus", daemon=True)

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        """Set the gauges to the metrics of an update, and `rlcap_update` to its number."""
        with self._lock:
            self._latest = {"update": float(update), **metrics}
            self._set()
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> None:
        """Let the gauges go."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _refresh(self) -> None:
        while not self._closing.wait(REFRESH_S):
            with self._lock:
                self._set()

    def _set(self) -> None:
        for metric, value in self._latest.items():
            mapped = gauge_name(metric)
            self._gauge(mapped).set(float(value), {_RUN: self._run_name, **mapped.tags})

    def _gauge(self, mapped: GaugeName) -> Gauge:
        if mapped.name not in self._gauges:
            self._gauges[mapped.name] = Gauge(mapped.name, tag_keys=(_RUN, *mapped.tags))
        return self._gauges[mapped.name]
