"""Checkpoints behind the back of a run: they do not stall it, and it survives those that fail."""

import logging
import threading

import pytest

from rlcap.checkpoint import latest_good, update_of
from rlcap.checkpoint_mirror import CheckpointMirror
from rlcap.config.training import TrainingConfig
from rlcap.errors import CheckpointError
from rlcap.pipeline.checkpointing import Checkpointer
from rlcap.run_directory import RunDirectory

WAIT_S = 30


@pytest.fixture
def checkpoints(tmp_path):
    """Return a function that makes a checkpointer; it is closed in the end."""
    made = []

    def make(mirror=None, newest=0, **training):
        training = TrainingConfig(**{"keep_last": 2, **training})
        made.append(Checkpointer(RunDirectory(tmp_path), training, mirror, newest))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Policy:
    """A value that changes with every update, and files that can be made to wait or to fail."""

    def __init__(self):
        self.value = 0
        self.may_write = threading.Event()
        self.may_write.set()
        self.error = None

    def snapshot(self):
        held = self.value

        def write(folder):
            assert self.may_write.wait(WAIT_S)
            if self.error is not None:
                raise self.error
            (folder / "policy").write_text(str(held), encoding="utf-8")

        return write


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


def test_the_run_goes_on_while_a_checkpoint_is_written_and_does_not_change_what_is_in_it(checkpoints, tmp_path):
    policy, writer = Policy(), checkpoints()
    policy.may_write.clear()
    policy.value = 1
    writer.begin(1, policy.snapshot)
    policy.value = 2  # comes back before anything is written
    assert latest_good(tmp_path / "checkpoints") is None
    assert writer.metrics()["time/checkpoint_stall_s"] < WAIT_S / 10
    policy.may_write.set()
    assert writer.settle() is None
    assert (latest_good(tmp_path / "checkpoints") / "policy").read_text(encoding="utf-8") == "1"
    assert writer.metrics()["time/checkpoint_write_s"] > 0


def test_only_one_is_written_at_a_time_and_waiting_for_it_is_a_metric(checkpoints, tmp_path):
    policy, writer = Policy(), checkpoints()
    policy.may_write.clear()
    writer.begin(1, policy.snapshot)
    held = []

    def snapshot():
        held.append(names(tmp_path))
        return policy.snapshot()

    timer = threading.Timer(0.2, policy.may_write.set)
    timer.start()
    writer.begin(2, snapshot)
    timer.join()
    assert held == [["update-000001"]], "the first was whole before the second was held"
    assert writer.metrics()["time/checkpoint_stall_s"] > 0.1
    writer.finish(2, policy.snapshot)
    assert names(tmp_path) == ["update-000001", "update-000002"]


def test_one_that_fails_is_told_and_counted_and_the_run_goes_on_with_the_earlier_one(checkpoints, tmp_path, caplog):
    policy, writer = Policy(), checkpoints()
    writer.begin(1, policy.snapshot)
    writer.settle()
    policy.error = OSError(28, "No space left on device")
    with caplog.at_level(logging.WARNING):
        writer.begin(2, policy.snapshot)
        assert isinstance(writer.settle(), CheckpointError)
    assert "the checkpoint of update 2 cannot be written: [Errno 28] No space left on device" in caplog.text
    assert writer.metrics()["checkpoint/failed"] == 1
    assert names(tmp_path) == ["update-000001"]
    with pytest.raises(CheckpointError, match=r"what was learnt since update 1 is lost: .*No space left"):
        writer.finish(3, policy.snapshot)
    policy.error = None
    writer.finish(3, policy.snapshot)
    assert update_of(latest_good(tmp_path / "checkpoints")) == 3
    assert writer.metrics()["checkpoint/failed"] == 2


def test_a_mistake_of_ours_is_no_full_disk(checkpoints):
    policy, writer = Policy(), checkpoints()
    policy.error = TypeError("a mistake")
    writer.begin(1, policy.snapshot)
    with pytest.raises(TypeError, match="a mistake"):
        writer.settle()


def test_what_is_on_disk_already_is_not_written_again(checkpoints, tmp_path):
    policy, writer = Policy(), checkpoints(newest=4)
    writer.finish(4, policy.snapshot)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(("metric", "kept"), [("reward", [2, 5]), ("-reward", [3, 5]), ("no_metric", [5])])
def test_the_best_by_a_metric_since_the_checkpoint_before_stays(metric, kept, checkpoints, tmp_path, caplog):
    policy, writer = Policy(), checkpoints(keep_last=1, keep_best=1, best_metric=metric)
    with caplog.at_level(logging.WARNING):
        for update, rewards in enumerate([(1, 1), (0, 9), (-9, 0), (2, 2), (2, 1)], start=1):
            for reward in rewards:
                writer.note({"reward": reward})
            writer.begin(update, policy.snapshot)
            writer.settle()
    assert names(tmp_path) == [f"update-{update:06d}" for update in kept]
    assert ("is no metric of this run" in caplog.text) == (metric == "no_metric")


def test_copies_go_elsewhere_and_only_the_newest_stays_here(checkpoints, tmp_path):
    mirror = CheckpointMirror.open(f"file://{tmp_path}/far")
    policy, writer = Policy(), checkpoints(mirror)
    for update in (1, 2, 3):
        writer.begin(update, policy.snapshot)
    writer.finish(3, policy.snapshot)
    assert mirror.updates() == [3, 2]
    assert names(tmp_path) == ["update-000003"]
    assert writer.set_aside(3) == [tmp_path / "checkpoints/rejected-update-000003"]
    assert mirror.updates() == [2]


def test_a_copy_that_fails_costs_neither_the_checkpoint_here_nor_the_run(checkpoints, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    policy, writer = Policy(), checkpoints(CheckpointMirror.open(f"file://{tmp_path}/file/far"))
    with caplog.at_level(logging.WARNING):
        writer.finish(1, policy.snapshot)
    assert "cannot take the checkpoint of update 1" in caplog.text
    assert update_of(latest_good(tmp_path / "checkpoints")) == 1
