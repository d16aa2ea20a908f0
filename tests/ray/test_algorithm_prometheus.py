"""The gauges of a run, as Prometheus would read them from a real node of Ray."""

import re
import time
import urllib.request

import pytest
import ray

from rlcap.algorithm import prometheus
from rlcap.algorithm.prometheus import PrometheusTracker
from rlcap.config.training import TrackingConfig
from rlcap.metrics import MetricsWriter
from rlcap.run_directory import RunDirectory

PATIENCE_S = 60
KEPT_S = 2
"""Ray keeps a number for two intervals, which are one second at least."""


@pytest.fixture
def exporter(monkeypatch):
    """The address of a node's exporter, which hears of the driver's gauges every second."""
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")  # for the processes of Ray
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 * 1024**2,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    node = ray.nodes()[0]
    yield f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    ray.shutdown()


def scraped(address):
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return re.findall(r'^(ray_rlcap_\w+)\{.*\brun="bees".*\} (\S+)$', answer.read().decode(), re.MULTILINE)
    except OSError:  # the exporter comes up after the node
        return ["no answer"]


def wait_for(wanted, exporter):
    deadline = time.monotonic() + PATIENCE_S
    while set(found := scraped(exporter)) != wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    assert set(found) == wanted


def test_prometheus_reads_the_latest_numbers_of_a_run_until_it_ends(exporter, tmp_path, monkeypatch):
    monkeypatch.setattr(prometheus, "REFRESH_S", 0.5)
    tracker = PrometheusTracker("bees")
    writer = MetricsWriter(RunDirectory(tmp_path), TrackingConfig(tensorboard=False), [tracker])
    writer.log(1, {"rollout/reward_mean": 0.25})
    writer.truncate_after(0)
    writer.log(1, {"rollout/reward_mean": 0.5})
    wanted = {("ray_rlcap_update", "1.0"), ("ray_rlcap_rollout_reward_mean", "0.5")}
    wait_for(wanted, exporter)
    time.sleep(2 * KEPT_S)
    wait_for(wanted, exporter)
    writer.close()
    wait_for(set(), exporter)
