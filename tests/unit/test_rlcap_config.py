from pathlib import Path

import pytest

from rlcap.config.algorithm import AlgorithmKind
from rlcap.config.data import SourceKind
from rlcap.config.load import CONFIGS, choices, load_config, read_config, save_config
from rlcap.config.run import RunConfig
from rlcap.errors import ConfigError


def fault_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides)
    return str(caught.value)


def test_no_overrides_give_the_quickstart():
    config = load_config()
    assert config.experiment == "quickstart"
    assert config.data.kind is SourceKind.soundscapes


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_composes_and_survives_a_round_trip(experiment: str, tmp_path: Path):
    config = load_config([f"experiment={experiment}", "data.root=somewhere"])
    save_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
    assert config.experiment == experiment


@pytest.mark.parametrize("group", ["data", "captioner", "reward", "algorithm", "learner", "cluster"])
def test_every_choice_of_every_group_composes(group: str):
    for choice in choices(group):
        load_config([f"{group}={choice}", "data.root=somewhere"])


def test_each_folder_of_configs_is_a_group_with_a_choice():
    assert all(choices(folder.name) for folder in CONFIGS.iterdir() if folder.is_dir() and folder.name[0] != "_")


def test_values_take_their_types():
    config = load_config(["algorithm=rloo", "algorithm.gamma=1", "data.splits={rl: ['3', '4']}", "data.split_column=x"])
    assert config.algorithm.kind is AlgorithmKind.rloo
    assert isinstance(config.algorithm.gamma, float)
    assert config.data.splits == {"rl": ["3", "4"]}


def test_of_two_choices_the_last_one_wins():
    assert load_config(["experiment=esc10", "experiment=smoke"]).experiment == "smoke"


@pytest.mark.parametrize("spelling", ["reward.nshards=4", "+reward.nshards=4", "++reward.nshards=4"])
def test_a_stray_key_is_answered_with_the_key_that_was_meant(spelling: str):
    fault = fault_of(spelling)
    assert fault.startswith("reward.nshards is not a setting; did you mean num_shards?")
    assert "cache_mb" in fault


def test_every_fault_is_reported_at_once():
    fault = fault_of(
        "experiment=quickstar",
        "algorithm.clip_range=3.0",
        "algorithm.clip_rang=0.1",
        "data.kind=folde",
        "seed=abc",
        "tracking.wandb=5",
        "training=3",
        "sft.dropout=null",
        "a b",
        "seed=1,2",
    )
    for part in (
        "the settings have 10 faults:",
        "there is no experiment=quickstar; did you mean quickstart? known here: esc10",
        "algorithm.clip_range must lie in (0, 1), got 3.0",
        "algorithm.clip_rang is not a setting; did you mean clip_range?",
        "data.kind must be one of soundscapes, folder",
        "got 'folde'; did you mean folder?",
        "seed must be a whole number, got 'abc'",
        "tracking.wandb must be true or false, got 5",
        "training is a group of settings, got 3; set one, such as training.num_updates",
        "sft.dropout must be a number, got None",
        "'a b' is not of the form key=value",
        "seed takes one value, got 'seed=1,2'",
    ):
        assert part in fault


def test_faults_of_nested_sections_carry_their_full_key():
    assert "data.soundscapes.heldout must be above 0, got 0" in fault_of("data.soundscapes.heldout=0")
    assert "data.splits.train is not a split" in fault_of("data.splits={train: [a]}", "data.split_column=x")


def test_a_saved_run_takes_values_but_no_other_experiment(tmp_path: Path):
    path = tmp_path / "config.yaml"
    save_config(load_config(["experiment=smoke"]), path)
    assert read_config(path, ["experiment=smoke", "training.num_updates=9"]).training.num_updates == 9
    with pytest.raises(ConfigError, match="experiment=esc10 cannot be picked for a run that exists"):
        read_config(path, ["experiment=esc10"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "no valid YAML"), ("- 1", "must hold a YAML mapping"), ("sed: 1", "sed is not a setting; did you mean")],
)
def test_a_spoilt_settings_file_is_explained(text: str, message: str, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / "config.yaml")


def test_a_missing_settings_file_is_explained(tmp_path: Path):
    with pytest.raises(ConfigError, match="is this a run directory"):
        read_config(tmp_path / "config.yaml")


def test_the_default_settings_have_no_faults():
    assert list(RunConfig().faults()) == []
