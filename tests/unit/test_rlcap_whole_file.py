import os

import pytest

from rlcap.whole_file import remove_partials, whole_file, whole_folder


def test_a_file_appears_whole_and_takes_the_place_of_the_earlier_one(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text("earlier")
    with whole_file(path) as fresh:
        fresh.write_text("half")
        assert path.read_text() == "earlier"
        fresh.write_text("whole")
    assert path.read_text() == "whole"
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]


def test_a_block_that_raises_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text("earlier")

    def write_half():
        with whole_file(path) as fresh:
            fresh.write_text("half")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_half()
    assert path.read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.parametrize("made", [whole_file, whole_folder])
def test_two_processes_that_count_from_1_in_two_containers_do_not_meet(tmp_path, monkeypatch, made):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with made(tmp_path / "a") as one, made(tmp_path / "a") as other:
        assert one != other
        for path in (one, other):
            (path / "x").touch() if path.is_dir() else path.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_there_is_never_written_over(tmp_path):
    with whole_folder(tmp_path / "a") as slow:
        (slow / "second").touch()
        with whole_folder(tmp_path / "a") as fast:
            (fast / "first").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_leftovers_of_the_dead_are_told_from_what_is_being_written_by_their_age(tmp_path):
    with whole_file(tmp_path / "a") as fresh:
        fresh.touch()
        for name in (".b.partial-0a", ".c.partial-0a"):
            (tmp_path / name).touch()
        (tmp_path / ".d.partial-0a").mkdir()
        for name in (".b.partial-0a", ".d.partial-0a"):
            os.utime(tmp_path / name, (0, 0))
        remove_partials(tmp_path, older_than=fresh.stat().st_mtime - 60)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".c.partial-0a", "a"]


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with (
            pytest.raises(FileExistsError, match=f"no file, and is not replaced by one: '.*{name}'"),
            whole_file(tmp_path / name),
        ):
            pass
    assert (tmp_path / "pipe").is_fifo()
