"""What a PPO run writes between its updates, with an algorithm that only pretends."""

import contextlib
import json
import logging
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.audio_cursor import AudioCursor
from learner.ppo_learner import UsedBatch
from rlcap.algorithm.update_report import UpdateReport
from rlcap.checkpoint import latest_good, update_of
from rlcap.config.run import RunConfig
from rlcap.config.training import TrackingConfig, TrainingConfig
from rlcap.errors import ActorLostError, CheckpointError, GuardError
from rlcap.metrics import read_metrics
from rlcap.pipeline import tuning
from rlcap.pipeline.interrupt import StopRequested, StopSignal
from rlcap.pipeline.rollout_ledger import check_ledger, read_ledger
from rlcap.pipeline.tuning import TuningJob, _Loop, read_failures
from rlcap.run_directory import RunDirectory, create_run_directory

CURSOR = AudioCursor(num_clips=4, batch_size=2, seed=0)
METRICS = {"rollout/failed": 1.0, "time/captions_per_s": 100.0}


class PretendedReward:
    """Adds one metric."""

    def note_update(self, update, batch):
        assert batch.batch.batch_index == update - 1
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
        batch = CURSOR.batch(self.num_updates_done - 1)
        asked = SimpleNamespace(batch=batch, info=SimpleNamespace(quarantined=()))
        used = UsedBatch(batch.batch_index, tuple(map(str, batch.positions)), num_captions=4, num_unscored=1)
        self.last_report = UpdateReport(self.num_updates_done, METRICS, (), reasons, (asked,), (used,))

    def snapshot(self):
        text = json.dumps({"update": self.num_updates_done})
        return lambda folder: (folder / "state.json").write_text(text, encoding="utf-8")


@pytest.fixture
def job(tmp_path):
    config = RunConfig(
        run_dir=str(tmp_path / "run"),
        training=TrainingConfig(num_updates=4, checkpoint_every_updates=10, num_sample_clips=0),
        tracking=TrackingConfig(tensorboard=False),
    )
    return TuningJob("main", config, source=range(4), baseline=tmp_path, reward=tmp_path)


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
    job = TuningJob(name, job.config, source=range(4), baseline=job.baseline, reward=job.reward)
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


@contextlib.contextmanager
def files_of_at_most(num_bytes):
    """Let the system refuse to write more into any file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_run_on_a_full_disk_trains_on_and_loses_nothing_once_there_is_room(job, caplog):
    job.config.training.checkpoint_every_updates = 1
    job.config.training.num_updates = 6
    run = create_run_directory(job.config)
    algorithm = PretendedPPO({})
    train = algorithm.train
    with contextlib.ExitStack() as full, caplog.at_level(logging.WARNING):

        def train_on_a_full_disk():
            if algorithm.num_updates_done == 2:
                full.enter_context(files_of_at_most(100))
            if algorithm.num_updates_done == 5:
                full.close()
            train()

        algorithm.train = train_on_a_full_disk
        _Loop(job, run, algorithm, PretendedReward()).run(StopSignal())
    assert "File too large" in caplog.text
    assert "the run trains on" in caplog.text
    assert update_of(latest_good(run.checkpoints)) == 6
    table = read_metrics(run)
    assert table["update"].to_pylist() == list(range(1, 7))
    assert table["checkpoint/failed"].to_pylist() == [0, 0, 0, 1, 2, 3]
    assert check_ledger(read_ledger(run)).num_updates == 6


def test_a_run_that_ends_on_a_full_disk_says_so_and_keeps_its_last_good_checkpoint(job):
    job.config.training.checkpoint_every_updates = 2
    run = create_run_directory(job.config)
    algorithm = PretendedPPO({})
    train = algorithm.train
    with contextlib.ExitStack() as full:

        def train_on_a_full_disk():
            if algorithm.num_updates_done == 3:
                full.enter_context(files_of_at_most(100))
            train()

        algorithm.train = train_on_a_full_disk
        with pytest.raises(CheckpointError, match=r"since update 2 is lost: .*File too large"):
            _Loop(job, run, algorithm, PretendedReward()).run(StopSignal())
    assert update_of(latest_good(run.checkpoints)) == 2


def test_the_ledger_of_a_run_that_was_killed_and_went_on_holds_every_clip_once(job):
    job.config.training.checkpoint_every_updates = 2
    run = create_run_directory(job.config)
    loop = _Loop(job, run, PretendedPPO({}), PretendedReward())
    for _ in range(3):  # a kill after the third: the checkpoint of the second stands
        loop._algorithm.train()
        loop._record(loop._algorithm.last_report)
    loop._checkpoints.settle()
    job.config.training.num_updates = 5
    _Loop(job, run, PretendedPPO({}, first=2), PretendedReward()).run(StopSignal())
    report = check_ledger(read_ledger(run))
    assert (report.num_updates, report.num_batches, report.num_epochs, report.num_used) == (5, 5, 2, 10)
    assert (report.num_captions, report.num_unscored) == (20, 5)


class LosesItsLearner(PretendedPPO):
    """Loses its learner on the way to one update, as often as it is told to."""

    def __init__(self, at, times):
        super().__init__({})
        self._at, self._times_left = at, times

    def train(self):
        if self.num_updates_done + 1 == self._at and self._times_left:
            self._times_left -= 1
            raise ActorLostError("0 of 1 learners answered")
        super().train()

    def load_checkpoint(self, folder):
        self.num_updates_done = json.loads((Path(folder) / "state.json").read_text(encoding="utf-8"))["update"]


@pytest.fixture
def tune_with(job, monkeypatch):
    """Return a function that tunes with an algorithm that only pretends; returns the run directory."""

    @contextlib.contextmanager
    def pretend(*_, **__):
        yield PretendedReward()

    def make(algorithm):
        job.config.training.checkpoint_every_updates = 1
        job.config.cluster.max_restarts = 2
        run = create_run_directory(job.config)
        monkeypatch.setattr(tuning, "_server", pretend)
        monkeypatch.setattr(tuning, "LiveReward", pretend)
        monkeypatch.setattr(tuning, "_algorithm", lambda *_: contextlib.nullcontext(algorithm))
        tuning.tune(job, run)
        return run

    return make


def test_a_run_that_loses_its_learner_goes_on_from_its_last_checkpoint(tune_with, caplog):
    run = tune_with(LosesItsLearner(at=3, times=2))
    assert read_metrics(run)["update"].to_pylist() == [1, 2, 3, 4]
    assert check_ledger(read_ledger(run)).num_batches == 4
    assert [record.getMessage() for record in caplog.records if record.name == "rlcap.pipeline.tuning"] == 2 * [
        "update 3 was lost: 0 of 1 learners answered",
        "the run goes on from its last checkpoint, with new actors and a new learner",
    ]


def test_a_run_that_loses_its_learner_again_and_again_without_a_new_checkpoint_ends(tune_with):
    with pytest.raises(ActorLostError, match="0 of 1 learners answered"):
        tune_with(LosesItsLearner(at=3, times=3))


def test_a_run_of_which_no_checkpoint_is_whole_does_not_begin_anew_over_them(tune_with, job):
    damaged = RunDirectory(Path(job.config.run_dir)).checkpoints / "update-000002"
    algorithm = PretendedPPO({})

    def damage():
        damaged.mkdir(parents=True)
        raise ActorLostError("lost")

    algorithm.train = damage
    with pytest.raises(CheckpointError, match=r"none of the checkpoints in .* is whole"):
        tune_with(algorithm)
