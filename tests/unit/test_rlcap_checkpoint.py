import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlcap.checkpoint import CHECKSUMS, latest_good, prune, set_aside, update_of, verify_checkpoint, write_checkpoint
from rlcap.errors import CheckpointError


class Killed(BaseException):
    """A kill, as far as the process can feel one."""


def fill(text: str):
    def write(folder: Path) -> None:
        (folder / "weights").mkdir()
        (folder / "weights" / "policy.bin").write_text(text, encoding="utf-8")
        (folder / "state.json").write_text("{}", encoding="utf-8")

    return write


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_checkpoint_is_named_by_its_update_and_verifies(tmp_path: Path):
    path = write_checkpoint(tmp_path, 10, fill("ten"))
    assert path.name == "update-000010"
    assert update_of(path) == 10
    verify_checkpoint(path)
    assert sorted(json.loads((path / CHECKSUMS).read_text(encoding="utf-8"))) == ["state.json", "weights/policy.bin"]


def test_the_newest_is_found_by_number_not_by_name(tmp_path: Path):
    for update in (999_999, 1_000_000, 20):
        write_checkpoint(tmp_path, update, fill(str(update)))
    latest = latest_good(tmp_path)
    assert latest is not None
    assert update_of(latest) == 1_000_000


def test_nothing_there_is_nothing_good(tmp_path: Path):
    assert latest_good(tmp_path / "none") is None
    assert latest_good(tmp_path) is None


@pytest.mark.parametrize("step", ["write", "checksums", "sync", "rename"])
def test_a_kill_at_any_step_leaves_the_previous_one_good(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    previous = write_checkpoint(tmp_path, 1, fill("one"))

    def killed(*args: object, **kwargs: object) -> None:
        raise Killed

    def half_write(folder: Path) -> None:
        (folder / "state.json").write_text("{", encoding="utf-8")
        raise Killed

    write = fill("two")
    with monkeypatch.context() as patch:
        if step == "write":
            write = half_write
        elif step == "checksums":
            patch.setattr("rlcap.checkpoint._sha256", killed)
        elif step == "sync":
            patch.setattr("rlcap.checkpoint._sync", killed)
        else:
            patch.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            write_checkpoint(tmp_path, 2, write)

    assert latest_good(tmp_path) == previous
    latest = write_checkpoint(tmp_path, 2, fill("two"))
    assert latest_good(tmp_path) == latest
    assert names(tmp_path) == ["update-000001", "update-000002"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "checksums", "no_checksums", "empty_checksums"])
def test_a_damaged_one_is_passed_over_with_a_sentence(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    good = write_checkpoint(tmp_path, 1, fill("one"))
    bad = write_checkpoint(tmp_path, 2, fill("two"))
    weights = bad / "weights" / "policy.bin"
    if damage == "flip":
        weights.write_text("twp", encoding="utf-8")
    elif damage == "truncate":
        weights.write_text("", encoding="utf-8")
    elif damage == "remove":
        weights.unlink()
    elif damage == "no_checksums":
        (bad / CHECKSUMS).unlink()
    else:
        (bad / CHECKSUMS).write_text("{}" if damage == "empty_checksums" else '{"a', encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert latest_good(tmp_path) == good
    assert str(bad) in caplog.text
    assert "passed over" in caplog.text


def test_the_message_names_the_damaged_file(tmp_path: Path):
    path = write_checkpoint(tmp_path, 1, fill("one"))
    (path / "state.json").write_text("[]", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"is damaged: state.json does not match"):
        verify_checkpoint(path)
    with pytest.raises(CheckpointError, match="there is no whole checkpoint at"):
        verify_checkpoint(tmp_path / "update-000009")


def test_an_update_can_be_written_again(tmp_path: Path):
    write_checkpoint(tmp_path, 1, fill("one"))
    path = write_checkpoint(tmp_path, 1, fill("uno"))
    verify_checkpoint(path)
    assert (path / "weights" / "policy.bin").read_text(encoding="utf-8") == "uno"


def test_pruning_keeps_the_last_good_ones(tmp_path: Path):
    for update in range(1, 6):
        write_checkpoint(tmp_path, update, fill(str(update)))
    (tmp_path / "update-000005" / "state.json").unlink()
    prune(tmp_path, keep_last=2)
    assert names(tmp_path) == ["update-000003", "update-000004", "update-000005"]


def test_pruning_touches_nothing_where_there_are_too_few_good_ones(tmp_path: Path):
    for update in (1, 2):
        write_checkpoint(tmp_path, update, fill(str(update)))
    (tmp_path / "update-000001" / CHECKSUMS).unlink()
    prune(tmp_path, keep_last=2)
    assert names(tmp_path) == ["update-000001", "update-000002"]


def test_what_cannot_be_a_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="must hold plain files"):
        write_checkpoint(tmp_path, 1, lambda _: None)
    with pytest.raises(CheckpointError, match="must hold plain files"):
        write_checkpoint(tmp_path, 1, lambda folder: (folder / "link").symlink_to(tmp_path))
    with pytest.raises(CheckpointError, match="expected update-<number>, got weights"):
        update_of(tmp_path / "weights")
    assert latest_good(tmp_path) is None


def test_what_is_set_aside_stays_on_disk_and_no_run_goes_on_with_it(tmp_path: Path):
    for update in (10, 20, 30):
        write_checkpoint(tmp_path, update, fill(str(update)))
    for _ in range(2):  # a run that went on from update 10 and came to grief again
        moved = set_aside(tmp_path, from_update=20)
        assert [path.name for path in moved] == ["rejected-update-000030", "rejected-update-000020"]
        assert latest_good(tmp_path) == tmp_path / "update-000010"
        for update in (20, 30):
            write_checkpoint(tmp_path, update, fill(str(update)))
    prune(tmp_path, keep_last=1)
    assert names(tmp_path) == ["rejected-update-000020", "rejected-update-000030", "update-000030"]
    verify_checkpoint(moved[0])
    assert set_aside(tmp_path, from_update=31) == []


WRITER = """
import sys
from pathlib import Path
from rlcap.checkpoint import latest_good, newest_update, prune, write_checkpoint

root = Path(sys.argv[1])
content = bytes(range(256)) * 1000

def fill(folder):
    for name in ("captioner", "learner"):
        (folder / name).mkdir()
        for part in range(3):
            (folder / name / f"{part}.bin").write_bytes(content)

update = newest_update(root)
while True:
    update += 1
    write_checkpoint(root, update, fill)
    print(update, flush=True)
    prune(root, keep_last=2)
"""
NUM_KILLS = int(os.environ.get("RLCAP_CHECKPOINT_KILLS", "20"))
"""More of them make a longer trial."""


def test_a_writer_that_is_killed_at_any_moment_leaves_what_it_finished_good(tmp_path: Path):
    random_moments = random.Random(0)
    finished = 0
    for _ in range(NUM_KILLS):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        time.sleep(random_moments.uniform(0, 0.03))
        writer.send_signal(signal.SIGKILL)
        lines += writer.communicate(timeout=30)[0].splitlines()
        finished = int(lines[-1])
        newest = latest_good(tmp_path)
        assert newest is not None
        assert update_of(newest) in (finished, finished + 1)  # the last one may have been whole before it could say so
        verify_checkpoint(newest)


def test_a_disk_that_takes_no_more_is_told_and_leaves_no_rubbish(tmp_path: Path):
    previous = write_checkpoint(tmp_path, 1, fill("one"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"of update 2 cannot be written: \[Errno 27\] File too large"):
            write_checkpoint(tmp_path, 2, fill("two" * 10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert latest_good(tmp_path) == previous
    assert names(tmp_path) == ["update-000001"]


@pytest.fixture
def mount(tmp_path: Path):
    """Return a function that mounts a small disk in memory; skips where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def make(options: str) -> Path:
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as refused:
            pytest.skip(f"mounting is not allowed here: {refused}")
        return folder

    yield make
    subprocess.run(["umount", folder], check=False, capture_output=True)


def test_a_disk_that_is_full_for_real_is_told_and_works_again_once_there_is_room(mount):
    root = mount("size=64k") / "checkpoints"
    previous = write_checkpoint(root, 1, fill("one"))
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_checkpoint(root, 2, fill("two" * 100_000))
    assert latest_good(root) == previous
    assert update_of(write_checkpoint(root, 2, fill("two"))) == 2


def test_a_disk_that_is_read_only_is_told(mount):
    root = mount("ro") / "checkpoints"
    with pytest.raises(CheckpointError, match="Read-only file system"):
        write_checkpoint(root, 1, fill("one"))


def score(value: float):
    def write(folder: Path) -> None:
        fill("text")(folder)
        (folder / "score.json").write_text(json.dumps(value), encoding="utf-8")

    return write


def test_pruning_keeps_the_best_good_ones_besides_the_last(tmp_path: Path):
    for update, value in enumerate([0.3, 0.9, 0.5, 0.8, 0.1, 0.2], start=1):
        write_checkpoint(tmp_path, update, score(value))
    (tmp_path / "update-000002/state.json").unlink()
    prune(tmp_path, keep_last=2, keep_best=2)
    assert names(tmp_path) == ["update-000003", "update-000004", "update-000005", "update-000006"]
