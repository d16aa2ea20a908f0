import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcap.config.training import TrackingConfig
from rlcap.errors import ConfigError, DataError
from rlcap.metrics import MetricsWriter, read_metrics
from rlcap.run_directory import RunDirectory

NOWHERE_ELSE = TrackingConfig(tensorboard=False)


def new_writer(path: Path) -> MetricsWriter:
    return MetricsWriter(RunDirectory(path), NOWHERE_ELSE)


def log_updates(writer: MetricsWriter, first: int, last: int) -> None:
    for update in range(first, last + 1):
        metrics = {"rollout/reward_mean": update / 7, "learner/approx_kl": 1 / update}
        if update % 5 == 0:
            metrics["eval/win_rate"] = 0.5
        writer.log(update, metrics)


def test_rows_come_back_with_nulls_where_a_metric_was_not_logged(tmp_path: Path):
    writer = new_writer(tmp_path)
    log_updates(writer, 1, 6)
    writer.close()
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table.column_names == ["update", "eval/win_rate", "learner/approx_kl", "rollout/reward_mean"]
    assert table["update"].to_pylist() == [1, 2, 3, 4, 5, 6]
    assert table["eval/win_rate"].to_pylist() == [None, None, None, None, 0.5, None]


def test_a_killed_run_keeps_every_whole_row(tmp_path: Path):
    log_updates(new_writer(tmp_path), 1, 250)
    journal = RunDirectory(tmp_path).metrics_journal
    journal.write_text(journal.read_text(encoding="utf-8") + '{"update": 251, "rol', encoding="utf-8")
    assert read_metrics(RunDirectory(tmp_path))["update"].to_pylist() == list(range(1, 251))


def test_a_kill_between_rewrite_and_removal_of_the_journal_repeats_no_row(tmp_path: Path):
    writer = new_writer(tmp_path)
    log_updates(writer, 1, 5)
    journal = RunDirectory(tmp_path).metrics_journal
    before = journal.read_text(encoding="utf-8")
    writer.flush()
    journal.write_text(before, encoding="utf-8")
    assert read_metrics(RunDirectory(tmp_path))["update"].to_pylist() == [1, 2, 3, 4, 5]


@settings(max_examples=15, deadline=None)
@given(num_updates=st.integers(2, 260), data=st.data())
def test_a_resumed_run_equals_an_uninterrupted_one(num_updates: int, data, tmp_path_factory: pytest.TempPathFactory):
    killed_after = data.draw(st.integers(1, num_updates))
    checkpoint = data.draw(st.integers(0, killed_after))
    whole, resumed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("resumed")
    writer = new_writer(whole)
    log_updates(writer, 1, num_updates)
    writer.close()

    log_updates(new_writer(resumed), 1, killed_after)
    writer = new_writer(resumed)
    writer.truncate_after(checkpoint)
    log_updates(writer, checkpoint + 1, num_updates)
    writer.close()
    assert pq.read_table(resumed / "metrics.parquet").equals(pq.read_table(whole / "metrics.parquet"))


def test_updates_must_increase(tmp_path: Path):
    writer = new_writer(tmp_path)
    writer.log(3, {})
    with pytest.raises(ValueError, match="got 3 after 3"):
        writer.log(3, {})


def test_the_file_is_rewritten_rarely_as_the_run_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rewrites = []
    write_table = pq.write_table
    monkeypatch.setattr(pq, "write_table", lambda *args: (rewrites.append(args), write_table(*args)))
    writer = new_writer(tmp_path)
    for update in range(3000):
        writer.log(update, {"loss": 0.0})
    assert len(rewrites) < 25


def test_a_damaged_file_is_named(tmp_path: Path):
    (tmp_path / "metrics.parquet").write_text("not parquet", encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics.parquet is no readable Parquet file"):
        new_writer(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own imports
def test_tensorboard_gets_the_same_numbers(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricsWriter(RunDirectory(tmp_path), TrackingConfig())
    log_updates(writer, 1, 6)
    writer.truncate_after(3)
    log_updates(writer, 4, 5)
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("rollout/reward_mean")
    assert [scalar.step for scalar in scalars] == [1, 2, 3, 4, 5]
    assert scalars[-1].value == pytest.approx(5 / 7)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, name, None)
    tracking = TrackingConfig(tensorboard=False, **{name: True})
    with pytest.raises(ConfigError, match=rf"tracking.{name}=true needs the {name} package"):
        MetricsWriter(RunDirectory(tmp_path), tracking)


class FakeWandb:
    def __init__(self):
        self.logged = []

    def init(self, **settings):
        self.settings = settings
        return self

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self):
        self.finished = True


def test_wandb_gets_the_same_numbers_under_the_name_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    writer = MetricsWriter(RunDirectory(tmp_path), TrackingConfig(tensorboard=False, wandb=True, project="bees"))
    writer.log(1, {"loss": 2.0})
    writer.close()
    assert wandb.logged == [(1, {"loss": 2.0})]
    assert wandb.finished
    assert wandb.settings["project"] == "bees"
    assert wandb.settings["name"] == wandb.settings["id"] == tmp_path.name
