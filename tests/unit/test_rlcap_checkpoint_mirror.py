"""Copies of checkpoints where there is no rename: on a disk by its URI, and in fsspec's memory."""

import json
import logging
import uuid

import fsspec
import pytest

from rlcap.checkpoint import CHECKSUMS, SCORE, latest_good, update_of, verify_checkpoint, write_checkpoint
from rlcap.checkpoint_mirror import CheckpointMirror, newest_good
from rlcap.errors import CheckpointError, ConfigError


def fill(text, score=None):
    def write(folder):
        (folder / "weights").mkdir()
        (folder / "weights/policy.bin").write_text(text, encoding="utf-8")
        if score is not None:
            (folder / SCORE).write_text(json.dumps(score), encoding="utf-8")

    return write


@pytest.fixture(params=["file", "memory"])
def mirror(request, tmp_path):
    place = f"file://{tmp_path}/far" if request.param == "file" else f"memory://{uuid.uuid4()}/far"
    return CheckpointMirror.open(place)


@pytest.fixture
def upload(mirror, tmp_path):
    def make(update, text="text", score=None):
        mirror.upload(write_checkpoint(tmp_path / "here", update, fill(text, score)))

    return make


def filesystem(mirror):
    return fsspec.core.url_to_fs(mirror.uri)


def files(mirror, update):
    system, root = filesystem(mirror)
    return sorted(path.rpartition("/")[2] for path in system.find(f"{root}/update-{update:06d}"))


def edit(mirror, name, content):
    system, root = filesystem(mirror)
    system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
    system.pipe_file(f"{root}/{name}", content)


def test_a_copy_comes_back_as_it_was_on_another_machine(mirror, upload, tmp_path):
    assert mirror.updates() == []
    upload(1)
    upload(20, "twenty")
    assert mirror.updates() == [20, 1]
    fetched = newest_good(tmp_path / "there", mirror)
    assert fetched == tmp_path / "there/update-000020"
    verify_checkpoint(fetched)
    assert (fetched / "weights/policy.bin").read_text(encoding="utf-8") == "twenty"


def test_what_is_here_already_is_not_fetched(mirror, upload, tmp_path, monkeypatch):
    upload(1)
    monkeypatch.setattr(CheckpointMirror, "download", None)
    assert newest_good(tmp_path / "here", mirror) == tmp_path / "here/update-000001"
    assert newest_good(tmp_path / "here", None) == tmp_path / "here/update-000001"
    newer = write_checkpoint(tmp_path / "here", 2, fill("two"))
    assert newest_good(tmp_path / "here", mirror) == newer, "its copy may have failed"


def test_a_copy_without_its_checksums_is_none_and_is_cleared_away_by_the_next(mirror, upload):
    upload(1)
    edit(mirror, "update-000002/weights/policy.bin", b"half of i")
    assert mirror.updates() == [1]
    upload(3)
    assert mirror.updates() == [3, 1]
    assert files(mirror, 2) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights/policy.bin", b"twp"),
        (CHECKSUMS, b'{"a'),
        (CHECKSUMS, b'{"missing.bin": "0"}'),
        (CHECKSUMS, b'{"../../outside.bin": "0"}'),
    ],
)
def test_a_damaged_copy_is_passed_over_with_a_sentence(name, content, mirror, upload, tmp_path, caplog):
    upload(1)
    upload(2, "two")
    edit(mirror, f"update-000002/{name}", content)
    with caplog.at_level(logging.WARNING):
        assert update_of(newest_good(tmp_path / "there", mirror)) == 1
    assert "update 2" in caplog.text
    assert "passed over" in caplog.text
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["update-000001"]


def test_pruning_keeps_the_newest_and_the_best(mirror, upload):
    for update, score in enumerate([0.1, 0.9, None, 0.5, 0.2, 0.3], start=1):
        upload(update, score=score)
    mirror.prune(keep_last=2, keep_best=2)
    assert mirror.updates() == [6, 5, 4, 2]
    mirror.prune(keep_last=1)
    assert mirror.updates() == [6]
    assert files(mirror, 5) == []


def test_what_is_set_aside_is_no_copy_any_more_but_stays(mirror, upload, tmp_path):
    for update in (1, 2, 3):
        upload(update)
    mirror.set_aside(from_update=2)
    assert mirror.updates() == [1]
    upload(4)
    assert "policy.bin" in files(mirror, 2)
    assert mirror.updates() == [4, 1]
    upload(2)
    assert mirror.updates() == [4, 2, 1]


def test_a_place_that_nothing_can_write_to_is_told_in_a_sentence():
    with pytest.raises(ConfigError, match=r"training\.checkpoint_dir=nowhere://x names no place"):
        CheckpointMirror.open("nowhere://x")


def test_keys_in_a_uri_are_in_no_message():
    mirror = CheckpointMirror.open("s3://key:secret@bucket/run?endpoint_override=127.0.0.1:1&scheme=http&region=x")
    assert mirror.uri == "s3://bucket/run?endpoint_override=127.0.0.1:1&scheme=http&region=x"


def test_a_place_that_fails_is_told_in_a_sentence_and_what_is_here_stays_good(tmp_path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    mirror = CheckpointMirror.open(f"file://{tmp_path}/file/below")
    checkpoint = write_checkpoint(tmp_path / "here", 1, fill("one"))
    with pytest.raises(CheckpointError, match="cannot take the checkpoint of update 1"):
        mirror.upload(checkpoint)
    assert latest_good(tmp_path / "here") == checkpoint
