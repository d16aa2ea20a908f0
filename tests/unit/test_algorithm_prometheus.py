"""Metrics under their Prometheus names, and the dashboard that asks for them."""

import json
import re
import threading
from pathlib import Path

import pytest

from rlcap.algorithm import prometheus
from rlcap.algorithm.prometheus import EXPORTED_PREFIX, GaugeName, PrometheusTracker, gauge_name

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "cluster/grafana/rlcap.json"


class FakeGauge:
    """Holds the last value by its tags, and refuses others than it was made with."""

    made: list["FakeGauge"]
    was_set: threading.Semaphore

    def __init__(self, name, tag_keys):
        self.name, self.tag_keys, self.values = name, tag_keys, {}
        self.made.append(self)

    def set(self, value, tags):
        assert set(tags) == set(self.tag_keys)
        self.was_set.release()
        self.values[tuple(tags[key] for key in self.tag_keys)] = value


@pytest.fixture
def gauges(monkeypatch):
    FakeGauge.made, FakeGauge.was_set = [], threading.Semaphore(0)
    monkeypatch.setattr(prometheus, "Gauge", FakeGauge)
    return FakeGauge.made


def documented_metrics():
    """Names of the table in docs/run-directory.md; `<shard>/queue`, `batch_size` stand for one name each."""
    page = (ROOT / "docs/run-directory.md").read_text(encoding="utf-8")
    table = page.partition("## metrics.parquet")[2].partition("\n## ")[0]
    for row in re.findall(r"^\| (`.*?`) \|", table, flags=re.MULTILINE):
        names = re.findall(r"`([^`]+)`", row)
        prefix = names[0].rpartition("/")[0]
        yield from (name if "/" in name else f"{prefix}/{name}" for name in names)


def names_asked_for():
    return set(re.findall(r"\bray_rlcap_\w+", DASHBOARD.read_text(encoding="utf-8")))


def test_metrics_become_names_that_prometheus_takes_and_shards_become_a_tag():
    assert gauge_name("rollout/reward_mean") == GaugeName("rlcap_rollout_reward_mean")
    assert gauge_name("reward_server/replaced") == GaugeName("rlcap_reward_server_replaced")
    assert gauge_name("reward_server/shard-0-b/queue") == GaugeName("rlcap_reward_server_queue", {"shard": "shard-0-b"})
    assert gauge_name("rollout/staleness_share_2") == GaugeName("rlcap_rollout_staleness_share", {"staleness": "2"})
    assert gauge_name("reward/my-term.v2") == GaugeName("rlcap_reward_my_term_v2")


def test_each_metric_of_an_update_is_set_under_the_name_of_the_run(gauges):
    tracker = PrometheusTracker("bees")
    tracker.log(6, {"rollout/reward_mean": 0.1, "reward_server/a/queue": 3.0})
    tracker.log(7, {"rollout/reward_mean": 0.5, "reward_server/a/queue": 2.0, "reward_server/b/queue": 4.0})
    assert {gauge.name: gauge.values for gauge in gauges} == {
        "rlcap_update": {("bees",): 7.0},
        "rlcap_rollout_reward_mean": {("bees",): 0.5},
        "rlcap_reward_server_queue": {("bees", "a"): 2.0, ("bees", "b"): 4.0},
    }
    tracker.close()


def test_numbers_are_set_again_until_the_tracker_is_closed(gauges, monkeypatch):
    monkeypatch.setattr(prometheus, "REFRESH_S", 0.01)
    tracker = PrometheusTracker("bees")
    tracker.log(1, {"rollout/greedy_reward_mean": 0.5})
    tracker.log(2, {})
    for gauge in gauges:
        gauge.values.clear()
    assert all(FakeGauge.was_set.acquire(timeout=10) for _ in range(6))
    tracker.close()
    assert [gauge.values for gauge in gauges] == [{("bees",): 2.0}, {}], "what the latest update lacks is left alone"
    assert "prometheus" not in {thread.name for thread in threading.enumerate()}


def test_no_two_metrics_share_a_gauge(gauges):
    metrics = list(documented_metrics())
    assert len(metrics) > 50
    tracker = PrometheusTracker("bees")
    tracker.log(1, dict.fromkeys(metrics, 0.0))
    tracker.close()
    assert sum(len(gauge.values) for gauge in gauges) == len(metrics) + 1


def test_the_dashboard_asks_only_for_metrics_that_there_are():
    written = {EXPORTED_PREFIX + gauge_name(metric).name for metric in ["update", *documented_metrics()]}
    asked = names_asked_for()
    assert len(asked) > 20
    assert asked <= written


def test_grafana_can_place_every_panel_and_fill_in_where_prometheus_is():
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'run=~"$run"' in target["expr"]
            grouped = set(re.search(r"by \(([\w, ]+)\)", target["expr"])[1].split(", "))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= grouped
