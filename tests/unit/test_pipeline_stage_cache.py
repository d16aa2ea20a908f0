import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from enum import Enum

import pytest

from rlcap import leases
from rlcap.pipeline import stage_cache
from rlcap.pipeline.stage_cache import StageCache, source_fingerprint


class Kind(Enum):
    plain = "plain"
    fancy = "fancy"


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)


@dataclass
class Settings:
    kind: Kind = Kind.plain
    inner: Inner = Inner()
    name: str = "a"


def write_one(path):
    (path / "result.txt").write_text("made")


def test_a_stage_is_built_once(tmp_path):
    builds = []

    def build(path):
        builds.append(path)
        write_one(path)

    first = StageCache(tmp_path).get("clap", {"seed": 0}, build)
    again = StageCache(tmp_path).get("clap", {"seed": 0}, build)
    assert len(builds) == 1
    assert not first.cached
    assert again.cached
    assert again == replace(first, cached=True)
    assert (again.path / "result.txt").read_text() == "made"
    assert again.path == tmp_path / f"clap-{again.key}"


def test_nothing_is_to_be_seen_before_a_stage_is_complete(tmp_path):
    def build(path):
        write_one(path)
        assert not [folder for folder in tmp_path.iterdir() if folder != path and folder.is_dir()]
        assert path.name.startswith("clap-")
        assert ".unfinished" in path.name

    StageCache(tmp_path).get("clap", {}, build)
    assert [folder.name.partition(".")[1] for folder in tmp_path.iterdir()] == [""]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_a_failed_build_leaves_nothing_and_the_next_one_starts_afresh(tmp_path, error):
    def fail(path):
        write_one(path)
        raise error

    with pytest.raises(type(error)):
        StageCache(tmp_path).get("clap", {}, fail)
    assert list(tmp_path.iterdir()) == []
    assert not StageCache(tmp_path).get("clap", {}, write_one).cached


def test_a_folder_without_its_record_is_built_again(tmp_path):
    found = StageCache(tmp_path).get("clap", {}, write_one)
    (found.path / "stage.json").unlink()
    (found.path / "half.bin").touch()
    again = StageCache(tmp_path).get("clap", {}, write_one)
    assert not again.cached
    assert again.path == found.path
    assert not (again.path / "half.bin").exists()


FACTS = {"settings": Settings(), "clips": "abc", "sections": [Inner(), {"deep": Inner()}], "seed": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": Settings(kind=Kind.fancy)},
        {"settings": Settings(inner=Inner(rate=0.2))},
        {"settings": Settings(inner=Inner(sizes=(1, 3)))},
        {"settings": Settings(name="b")},
        {"clips": "abd"},
        {"sections": [Inner(rate=0.3), {"deep": Inner()}]},
        {"sections": [Inner(), {"deep": Inner(rate=0.3)}]},
        {"sections": [{"deep": Inner()}, Inner()]},
        {"seed": 1},
        {"one_more": None},
    ],
)
def test_the_key_changes_with_anything_that_a_stage_depends_on(tmp_path, changes):
    cache = StageCache(tmp_path)
    assert cache.get("clap", FACTS, write_one).key != cache.get("clap", {**FACTS, **changes}, write_one).key


def test_the_key_changes_with_stage_and_source_and_not_with_the_order_of_facts(tmp_path, monkeypatch):
    cache = StageCache(tmp_path)
    key = cache.get("clap", FACTS, write_one).key
    assert cache.get("clap", dict(reversed(FACTS.items())), write_one).key == key
    assert cache.get("baseline", FACTS, write_one).key != key
    monkeypatch.setattr(stage_cache, "_own_source", lambda: "edited")
    assert cache.get("clap", FACTS, write_one).key != key


def test_what_has_no_plain_form_is_refused(tmp_path):
    with pytest.raises(TypeError):
        StageCache(tmp_path).get("clap", {"model": object()}, write_one)


def write_package(folder):
    (folder / "inner").mkdir(parents=True)
    (folder / "loss.py").write_text("RATE = 1")
    (folder / "inner/deep.py").write_text("")
    return folder


def test_the_fingerprint_of_source_changes_with_any_byte_and_name_of_it_and_with_nothing_else(tmp_path):
    one, same = write_package(tmp_path / "here/rlcap"), write_package(tmp_path / "there/rlcap")
    before = source_fingerprint([one])
    (same / "notes.txt").write_text("to do")
    (same / "loss.cpython-311.pyc").write_bytes(b"compiled")
    assert source_fingerprint([same]) == before
    (same / "inner/deep.py").write_text("import os")
    edited = source_fingerprint([same])
    (same / "inner/deep.py").rename(same / "inner/deeper.py")
    renamed = source_fingerprint([same])
    (same / "new.py").touch()
    assert len({before, edited, renamed, source_fingerprint([same]), source_fingerprint([one, same])}) == 5


def test_the_source_of_every_package_of_ours_counts(monkeypatch):
    hashed = []
    monkeypatch.setattr(stage_cache, "source_fingerprint", lambda folders: hashed.extend(folders) or "hash")
    stage_cache._own_source.__wrapped__()
    assert [folder.name for folder in hashed] == ["rlcap", "actors", "learner", "reward_server"]
    assert all((folder / "__init__.py").is_file() for folder in hashed)


BUILDER = """
import os, pathlib, sys, time
from rlcap import leases
from rlcap.pipeline import stage_cache
leases.LEASE_S, leases.HEARTBEAT_S = 3.0, 0.3
stage_cache._own_source = lambda: "the same"
def build(path):
    print("builds", flush=True)
    for number in range(20):
        (path / f"{number}.bin").write_bytes(b"x" * 1000)
        time.sleep(float(sys.argv[2]) / 20)
result = stage_cache.StageCache(pathlib.Path(sys.argv[1])).get("clap", {}, build)
assert len(list(result.path.glob("*.bin"))) == 20
print("cached" if result.cached else "made", flush=True)
"""


@pytest.fixture
def start_builder(tmp_path):
    """Return a function that starts a process which wants a stage that takes some seconds to make."""
    builders = []

    def start(seconds=0.5):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", BUILDER, str(tmp_path), str(seconds)]
        builders.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return builders[-1]

    yield start
    for builder in builders:
        builder.kill()
        builder.communicate()


def names_in(folder):
    return sorted(path.name.partition("-")[0] for path in folder.iterdir())


def test_of_several_that_want_a_stage_at_one_time_one_makes_it_and_the_others_use_it(start_builder, tmp_path):
    said = sorted(builder.communicate(timeout=60)[0] for builder in [start_builder() for _ in range(3)])
    assert said == ["builds\nmade\n", "cached\n", "cached\n"]
    assert names_in(tmp_path) == ["clap"], "no leftovers"


def test_a_stage_whose_maker_was_killed_is_made_by_whoever_waits_for_it_and_nothing_is_left(start_builder, tmp_path):
    killed = start_builder(30)
    assert killed.stdout.readline() == "builds\n"
    waiting = start_builder()
    killed.kill()
    assert waiting.communicate(timeout=60)[0] == "builds\nmade\n"
    assert names_in(tmp_path) == ["clap"]


def test_a_maker_that_was_stopped_for_long_uses_what_another_made_meanwhile(start_builder, tmp_path):
    stopped = start_builder(1)
    assert stopped.stdout.readline() == "builds\n"
    stopped.send_signal(signal.SIGSTOP)
    assert start_builder().communicate(timeout=60)[0] == "builds\nmade\n"
    stopped.send_signal(signal.SIGCONT)
    assert stopped.communicate(timeout=60)[0] == "cached\n"
    assert names_in(tmp_path) == ["clap"]


def test_a_stage_may_be_made_within_another_one(tmp_path):
    cache = StageCache(tmp_path)

    def build(path):
        cache.get("clips", {}, write_one)
        write_one(path)

    assert not cache.get("clap", {}, build).cached
    assert names_in(tmp_path) == ["clap", "clips"]


def test_what_the_dead_left_of_other_stages_is_cleared_away_and_what_the_living_make_is_not(
    start_builder, tmp_path, monkeypatch
):
    monkeypatch.setattr(leases, "LEASE_S", 3.0)
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.3)
    start_builder(30).stdout.readline()
    for name in ("sft-0a.unfinished-17", "reward-0b.unfinished-18"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half.bin").touch()
    (tmp_path / ".reward-0b.lease").write_text(
        "filelock/2\npid=18\nhost=far-away\nmode=lease\ntoken=0\nduration=60.0\n"
    )
    os.utime(tmp_path / ".reward-0b.lease", (0, 0))
    StageCache(tmp_path).get("other", {}, write_one)
    assert [name for name in names_in(tmp_path) if not name.startswith(".")] == ["clap", "other"]
