import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from rlcap import run_directory
from rlcap.config.load import read_config
from rlcap.config.run import RunConfig
from rlcap.config.training import TrainingConfig
from rlcap.errors import ConfigError
from rlcap.leases import RUN_LEASE
from rlcap.run_directory import (
    claim_run_directory,
    create_run_directory,
    drive_run,
    find_run_directory,
    reopen_run_directory,
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def test_a_new_run_is_named_by_experiment_and_time_and_found_as_the_latest():
    run = create_run_directory(RunConfig(experiment="bees"))
    assert run.path.parent == Path("runs")
    assert run.path.name.startswith("bees-20")
    assert find_run_directory().path == run.path.resolve()
    assert read_config(run.config).experiment == "bees"


def test_two_runs_in_one_second_do_not_meet():
    first, second = create_run_directory(RunConfig()), create_run_directory(RunConfig())
    assert first.path != second.path
    assert find_run_directory().path == second.path.resolve()


def test_a_name_that_is_chosen_is_claimed_at_once_by_whoever_asks_first(monkeypatch: pytest.MonkeyPatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1, 12)

    monkeypatch.setattr(run_directory, "datetime", Stopped)
    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(lambda seed: claim_run_directory(RunConfig(seed=seed)), range(8)))
    assert len(set(claimed)) == 8
    assert sorted(path.name for path in claimed)[:3] == [f"quickstart-20260101-120000{end}" for end in ("", "-2", "-3")]
    assert all(path.is_dir() for path in claimed)


def test_a_given_folder_is_used_as_it_stands():
    assert claim_run_directory(RunConfig(run_dir="here")) == Path("here")
    assert create_run_directory(RunConfig(run_dir="here")).config.is_file()


def test_a_folder_with_other_files_is_refused():
    Path("mine").mkdir()
    Path("mine", "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"holds files that are not of a run, such as thesis.tex"):
        create_run_directory(RunConfig(run_dir="mine"))
    assert not Path("latest").exists()


@pytest.mark.parametrize("result", ["metrics.parquet", "summary.json", "checkpoints/update-000001", "captioners/tuned"])
def test_an_earlier_run_is_not_overwritten(result: str):
    file = create_run_directory(RunConfig(run_dir="runs/a")).path / result
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    with pytest.raises(ConfigError, match="add resume=true to continue it"):
        create_run_directory(RunConfig(run_dir="runs/a"))
    assert file.exists()


def test_a_folder_whose_run_ended_before_its_first_update_is_used_again():
    run = create_run_directory(RunConfig(run_dir="runs/a", seed=1))
    run.quarantine.write_text("path,reason\nbad.wav,empty\n")
    run.baseline.mkdir(parents=True)
    Path("runs/a/notes.txt").touch()
    assert create_run_directory(RunConfig(run_dir="runs/a", seed=2)) == run
    assert read_config(run.config).seed == 2
    assert not run.quarantine.exists(), "another start has other bad files"
    assert not run.baseline.exists(), "and another baseline"
    assert Path("runs/a/notes.txt").exists()


def test_a_run_that_goes_on_keeps_the_settings_that_it_goes_on_with():
    run = create_run_directory(RunConfig(run_dir="runs/a", seed=1))
    reopened = reopen_run_directory(
        RunConfig(run_dir="runs/a", seed=1, resume=True, training=TrainingConfig(num_updates=7))
    )
    assert reopened == run
    found = read_config(run.config)
    assert (found.training.num_updates, found.seed, found.resume) == (7, 1, False)


def test_a_file_in_the_way_is_named():
    Path("a").touch()
    with pytest.raises(ConfigError, match="run_dir must be a folder, but a is a file"):
        create_run_directory(RunConfig(run_dir="a"))


def test_a_folder_of_ones_own_called_latest_stays():
    Path("runs/latest").mkdir(parents=True)
    create_run_directory(RunConfig(run_dir="runs/a"))
    assert not Path("runs/latest").is_symlink()


def test_a_file_system_without_links_has_no_latest_run_and_the_run_goes_on(monkeypatch, caplog):
    def refuse(*_, **__):
        raise PermissionError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert create_run_directory(RunConfig(run_dir="runs/a")).config.is_file()
    assert "name it by run_dir=runs/a" in caplog.text


def test_a_run_has_one_driver_and_those_who_only_read_are_not_in_its_way():
    config = RunConfig(run_dir="runs/a")
    with drive_run(config) as run:
        run.check_lease()
        find_run_directory("runs/a").check_lease()
        assert read_config(run.config) == config
    assert not (run.path / RUN_LEASE).exists()
    with drive_run(replace(config, resume=True)) as again:
        assert again == run


@pytest.mark.parametrize(
    "left",
    [
        "captioners/.baseline.partial-0a",
        "reward_models/.v1.partial-0a",
        ".summary.json.partial-0a",
        "ledger/.b.partial-0a",
    ],
)
def test_what_a_killed_driver_left_half_written_is_removed_by_the_next_one_and_what_is_being_written_is_not(left: str):
    with drive_run(RunConfig(run_dir="runs/a")) as run:
        pass
    old, new = run.path / left, run.path / f"{left}b"
    for path in (old, new):
        path.mkdir(parents=True)
        (path / "weights").touch()
    os.utime(old, (0, 0))
    with drive_run(RunConfig(run_dir="runs/a", resume=True)):
        assert not old.exists()
        assert new.exists()


def test_a_missing_run_is_answered_with_those_there_are():
    with pytest.raises(ConfigError, match="there are no runs below"):
        find_run_directory()
    create_run_directory(RunConfig(run_dir="runs/a"))
    with pytest.raises(ConfigError, match=r"there is no run at runs/b; runs here: a$"):
        find_run_directory("runs/b")
    Path("c").mkdir()
    with pytest.raises(ConfigError, match=r"not the folder of a run: it holds no config.yaml"):
        find_run_directory("c")
