"""What a PPO run writes between its updates, with an algorithm that only pretends."""

import json
import logging

import pytest

from rlcap.algorithm.caption_ppo import UpdateReport
from rlcap.checkpoint import latest_good, update_of
from rlcap.config.run import RunConfig
from rlcap.config.training import TrackingConfig, TrainingConfig
from rlcap.errors import GuardError
from rlcap.metrics import read_metrics
from rlcap.pipeline.interrupt import StopRequested, StopSignal
from rlcap.pipeline.tuning import TuningJob, _Loop, read_failures
from rlcap.run_directory import RunDirectory, create_run_directory

METRICS = {"rollout/failed": 1.0, "time/captions_per_s": 100.0}


class PretendedReward:
    """Adds one metric."""

    def note_update(self, update, batch):
        assert batch == "a batch"
        return {"reward/version_number": 0.0}


class PretendedPPO:
    """Updates that fail for given reasons, by number."""

    def __init__(self, reasons, first=0, guard=None):
        self.num_updates_done = first
        self._reasons = reasons
        self._guard = guard

    def train(self):
        if self._guard is not None and self.num_updates_done == 3:
            raise self._guard
        self.num_updates_done += 1
        reasons = self._reasons.get(self.num_updates_done, ())
        self.last_report = UpdateReport(self.num_updates_done, METRICS, (), reasons, ("a batch",))

    def save_checkpoint(self, folder):
        with open(f"{folder}/state.json", "w") as file:
            json.dump({"update": self.num_updates_done}, file)


@pytest.fixture
def job(tmp_path):
    config = RunConfig(
        run_dir=str(tmp_path / "run"),
        training=TrainingConfig(num_updates=4, checkpoint_every_updates=10, num_sample_clips=0),
        tracking=TrackingConfig(tensorboard=False),
    )
    return TuningJob("main", config, source=None, baseline=tmp_path, reward=tmp_path)


@pytest.fixture(autouse=True)
def _without_samples(monkeypatch):
    monkeypatch.setattr(_Loop, "_sample_rows", lambda self, report: [])


def test_each_reason_for_failed_scores_is_told_once_a_run_and_kept(job, caplog):
    run = create_run_directory(job.config)
    silent, asleep = "shard-0 did not answer within 3 s", "shard-1 failed: it fell asleep"
    algorithm = PretendedPPO({1: (silent,), 2: (silent, asleep), 4: (asleep,)})
    with caplog.at_level(logging.WARNING):
        _Loop(job, run, algorithm, PretendedReward()).run(StopSignal())
    assert [record.getMessage() for record in caplog.records] == [
        f"captions of update {update} could not be scored, and are left out: {reason}"
        for update, reason in ((1, silent), (2, asleep))
    ]
    assert read_failures(run) == {silent: 1, asleep: 2}
    caplog.clear()
    job.config.training.num_updates = 5
    _Loop(job, run, PretendedPPO({5: (silent,)}, first=4), PretendedReward()).run(StopSignal())
    assert not caplog.records, "a resumed run has said it before"


def test_a_run_without_failures_says_nothing_of_them(job):
    run = create_run_directory(job.config)
    _Loop(job, run, PretendedPPO({}), PretendedReward()).run(StopSignal())
    assert read_failures(run) == {}
    assert not run.failures.exists()
    assert read_metrics(run)["update"].to_pylist() == [1, 2, 3, 4]


def test_a_stopped_run_leaves_a_checkpoint_of_its_last_update(job, monkeypatch):
    run = create_run_directory(job.config)
    algorithm, stop = PretendedPPO({}), StopSignal()

    def check():
        if algorithm.num_updates_done == 3:
            raise StopRequested

    monkeypatch.setattr(stop, "check", check)
    with pytest.raises(StopRequested):
        _Loop(job, run, algorithm, PretendedReward()).run(stop)
    assert update_of(latest_good(run.checkpoints)) == 3
    assert read_metrics(run)["update"].to_pylist() == [1, 2, 3]


def stop_by(guard, job, run, name="main"):
    job.config.training.checkpoint_every_updates = 1
    job = TuningJob(name, job.config, source=None, baseline=job.baseline, reward=job.reward)
    with pytest.raises(GuardError) as caught:
        _Loop(job, run, PretendedPPO({}, guard=guard), PretendedReward()).run(StopSignal())
    return str(caught.value)


def test_a_guard_that_stops_a_run_tells_where_and_how_to_go_on(job):
    run = create_run_directory(job.config)
    guard = GuardError("a guard stopped update 4", first_spoilt=4, remedy="algorithm.learning_rate=5e-06")
    assert stop_by(guard, job, run) == (
        f"a guard stopped update 4; the last good checkpoint is {run.checkpoints}/update-000003: go on from there "
        f"with `rlcap train resume=true run_dir={run.path} algorithm.learning_rate=5e-06`"
    )
    assert read_metrics(run)["update"].to_pylist() == [1, 2, 3]


def test_checkpoints_of_weights_that_a_guard_calls_spoilt_are_set_aside(job):
    run = create_run_directory(job.config)
    message = stop_by(GuardError("a guard stopped update 4", first_spoilt=3, remedy="x=1"), job, run)
    assert f"; {run.checkpoints}/rejected-update-000003 is set aside; the last good checkpoint is" in message
    assert update_of(latest_good(run.checkpoints)) == 2


def test_a_run_whose_every_checkpoint_is_spoilt_has_to_start_again(job):
    run = create_run_directory(job.config)
    message = stop_by(GuardError("a guard stopped update 4", first_spoilt=1, remedy="algorithm.kl_coef=0.1"), job, run)
    assert message.endswith(
        "there is no good checkpoint before it: start again, for example with algorithm.kl_coef=0.1"
    )
    assert latest_good(run.checkpoints) is None


def test_a_control_that_a_guard_stops_is_told_apart_from_the_run_itself(job, tmp_path):
    create_run_directory(job.config)
    aside = RunDirectory(tmp_path / "cache" / "run")
    aside.path.mkdir(parents=True)
    message = stop_by(
        GuardError("a guard stopped update 4", first_spoilt=4, remedy="x=1"), job, aside, name="text_only"
    )
    assert message == (
        "the control text_only: a guard stopped update 4; do without controls: "
        f"`rlcap train resume=true run_dir={job.config.run_dir} training.controls=false`"
    )
