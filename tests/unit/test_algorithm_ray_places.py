import logging
import os
from pathlib import Path

import pytest

from rlcap.algorithm import ray_places
from rlcap.algorithm.ray_places import choose_ray_folder, token_without_home
from rlcap.errors import RunError


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch):
    """A short folder that can be written to, in place of those that every system has."""
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray_places, "ELSEWHERE", (Path("/tmp"),))
    return Path("/tmp")


def test_ray_chooses_its_folder_as_ever_where_it_can(short, monkeypatch, caplog):
    assert choose_ray_folder() == short / "ray"
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert choose_ray_folder() == Path("/var/tmp/ray")
    monkeypatch.setenv("RAY_TMPDIR", "/dev/shm")
    assert choose_ray_folder() == Path("/dev/shm/ray")
    assert not caplog.messages


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("kind", ["long", "missing", "file", "name too long", "letters of several bytes"])
def test_a_folder_that_ray_cannot_use_is_told_and_passed_over(variable, kind, short, monkeypatch, tmp_path, caplog):
    folder = {
        "long": tmp_path / ("x" * 90),
        "missing": tmp_path / "gone",
        "file": Path("/etc/hostname"),
        "name too long": Path("/" + "x" * 300),
        "letters of several bytes": tmp_path / ("录" * 30),
    }[kind]
    if kind == "long" or "bytes" in kind:
        folder.mkdir()
    monkeypatch.setenv(variable, str(folder))
    with caplog.at_level(logging.WARNING):
        assert choose_ray_folder() == short / "ray"
    assert str(folder) in caplog.text
    assert not (tmp_path / "gone").exists()


def test_without_any_place_the_way_out_is_told(short, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 90)))
    monkeypatch.setattr(ray_places, "ELSEWHERE", (Path("/proc"),))
    with pytest.raises(RunError, match=r"too long by \d+ bytes .*/proc cannot be written to .* Set RAY_TMPDIR"):
        choose_ray_folder()


@pytest.mark.parametrize("home", [None, "/proc/self", "/etc/hostname"])
def test_a_token_is_made_where_the_home_folder_keeps_none(home, short, monkeypatch):
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(Path, "home", staticmethod(_no_home))
    else:
        monkeypatch.setenv("HOME", home)
    with token_without_home():
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_ray_keeps_its_token_in_the_home_folder_where_it_can(short, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with token_without_home():
        assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setenv("HOME", "/proc/self")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with token_without_home():
        assert "RAY_AUTH_TOKEN" not in os.environ


def _no_home():
    raise RuntimeError("Could not determine home directory.")
