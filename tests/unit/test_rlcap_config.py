import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcap.config.algorithm import AlgorithmKind
from rlcap.config.data import SourceKind
from rlcap.config.load import CONFIGS, choices, load_config, read_config, save_config
from rlcap.config.overrides import read_overrides
from rlcap.config.paths import PATHS, make_absolute, paths_of
from rlcap.config.run import RunConfig
from rlcap.config.validation import setting_type
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


AWKWARD = [
    "epoch=3",
    "录音",
    "höhe",
    "a b",
    "c#1",
    "x(1)",
    "y,z",
    "[1]",
    "{a}",
    "it's",
    "a: b",
    "1e3",
    "true",
    "-1",
    "a;b",
    "50%",
]
TEXTS = ["data.root", "run_dir", "captioner.prompt", "captioner.checkpoint", "reward.preferences"]


def value_of(text: str) -> object:
    faults: list[str] = []
    (given,) = read_overrides([text], faults)
    assert not faults
    return given.value


@pytest.mark.parametrize("text", AWKWARD)
def test_text_is_taken_as_it_stands(text: str):
    assert [value_of(f"{key}={text}") for key in TEXTS] == [text] * len(TEXTS)


def test_text_that_hydra_would_refuse_reaches_the_settings(tmp_path: Path):
    given = ["data.root=录 音/epoch=3", "captioner.prompt=a (b), #c: ", "data.kind=folder", "data.label_columns=[标签]"]
    save_config(RunConfig(), tmp_path / "config.yaml")
    for config in (load_config(given), read_config(tmp_path / "config.yaml", given)):
        assert (config.data.root, config.captioner.prompt) == ("录 音/epoch=3", "a (b), #c: ")
        assert config.data.label_columns == ["标签"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ('"clotho > caption: "', "clotho > caption: "),
        ("'a, b'", "a, b"),
        ("clotho > caption: ", "clotho > caption: "),
        (r"a\,b", "a,b"),
        (r"C:\sounds", r"C:\sounds"),
        ("", ""),
        ("a=b=c", "a=b=c"),
    ],
)
def test_quotes_and_backslashes_mean_in_text_what_they_mean_to_hydra(given: str, meant: str):
    assert value_of(f"captioner.prompt={given}") == meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("[label]", ["label"]),
        ("[a,b]", ["a", "b"]),
        ("[标签,höhe]", ["标签", "höhe"]),
        ("[a=1, 'b, c']", ["a=1", "b, c"]),
        ('["a=1"]', ["a=1"]),
        ("[]", []),
    ],
)
def test_lists_take_what_their_brackets_hold(given: str, meant: list[str]):
    assert value_of(f"data.label_columns={given}") == meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("splits={rl: ['3', '4']}", {"rl": ["3", "4"]}),
        ("splits={rl:[3,4]}", {"rl": [3, 4]}),
        ('splits={"rl": ["3"]}', {"rl": ["3"]}),
        ("keep_rows={标签:[狗]}", {"标签": ["狗"]}),
        ("keep_rows.标签=[狗]", ["狗"]),
    ],
)
def test_mappings_take_what_their_brackets_hold(given: str, meant: object):
    assert value_of(f"data.{given}") == meant


FAULTS = [
    ("data.root", "'data.root' is not of the form key=value: it holds no ="),
    ("=3", "a key stands in front of ="),
    ("seed =3", "a key is words with dots between them"),
    ("~data.root=x", "a setting cannot be removed"),
    ("seed=1,2", "seed takes one value, got 'seed=1,2'"),
    ("seed=range(1,3)", "seed takes one value, got 'seed=range(1,3)'"),
    ("sft.num_epochs=x=1", "sft.num_epochs must be a whole number, got 'x=1'"),
    ("sft.batch_size=", "sft.batch_size must be a whole number, got ''"),
    ("sft.text_epochs=一", "sft.text_epochs must be a whole number, got '一'"),
    ("data.kind=fol(der)", "data.kind must be one of soundscapes"),
    ("experiment=esc=10", "there is no experiment=esc=10"),
    ("algorithm=狗", "there is no algorithm=狗"),
    ("data.label_columns=a,b", "data.label_columns takes a list or mapping in brackets, got 'a,b'"),
    ("data.label_columns=标签", "data.label_columns takes a list or mapping in brackets"),
    ("data.label_columns=a", "data.label_columns must be a list, each item text, got 'a'"),
    ('captioner.prompt="a', "captioner.prompt begins with a quotation mark that is not closed"),
    ("captioner.language_model=null", "captioner.language_model must be text, got None"),
    ("data.rot=x y", "data.rot is not a setting; did you mean root?"),
    ("sft.dropout.x=1", "sft.dropout must be a number, got {'x': 1}"),
]


def test_what_cannot_be_meant_is_answered_by_a_sentence_that_fits(tmp_path: Path):
    fault = fault_of(*(given for given, _ in FAULTS))
    assert [expected for _, expected in FAULTS if expected not in fault] == []
    save_config(RunConfig(), tmp_path / "config.yaml")
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path / "config.yaml", [given for given, _ in FAULTS])
    of_values = [expected for _, expected in FAULTS if not expected.startswith("there is no")]
    assert [expected for expected in of_values if expected not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("captioner.prompt=${nowhere}", "a setting refers to what is not there: Interpolation key 'nowhere' not found"),
        ("captioner.prompt=${", "captioner.prompt"),
        ("data..root=x", "data"),
        ("data[0]=x", "data"),
        ("data.root=~nobody-of-this-name/x", "names a home folder that is not known here"),
    ],
)
def test_a_reference_to_nowhere_is_answered_by_itself(given: str, fault: str):
    assert fault in fault_of(given)


@settings(max_examples=300)
@given(
    text=st.text(min_size=1, max_size=12),
    key=st.sampled_from([*TEXTS, "seed", "data.label_columns", "data.splits", "x"]),
)
def test_any_value_is_read_or_answered(text: str, key: str):
    faults: list[str] = []
    given = read_overrides([f"{key}={text}", text], faults)
    assert len(given) + len(faults) == 2


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    alone = [key for key in PATHS if key not in ("captioner.language_model", "captioner.audio_encoder")]
    ends = {"reward.preferences": ".parquet"}
    config = load_config([*(f"{key}=~/x{ends.get(key, '')}" for key in alone), "captioner.prompt=~/x"])
    assert dict(paths_of(config)) == {key: f"{tmp_path}/x{ends.get(key, '')}" for key in alone}
    assert config.captioner.prompt == "~/x"


def test_paths_lead_from_anywhere_to_where_they_led_at_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    config = load_config(["data.kind=folder", "data.root=rec", "captioner.checkpoint=/models/a"])
    make_absolute(config)
    paths = {"cache_dir": f"{tmp_path}/runs/cache", "data.root": f"{tmp_path}/rec", "captioner.checkpoint": "/models/a"}
    assert dict(paths_of(config)) == paths


def test_every_setting_that_is_said_to_be_a_place_is_known_as_a_path():
    """A field's docstring begins with what it is; those below `data.root` follow it, and copies go to a URI."""
    places = re.compile(
        r'^    (\w+): str = .*\n    """'
        r"(?:Folder|Directory|Captioner directory|Reward model directory|File|Pretrained CLAP)",
        re.MULTILINE,
    )
    below_others = {"audio_dir"}
    for section, file in (("", "run"), ("data.", "data"), ("captioner.", "captioner"), ("reward.", "reward")):
        source = (CONFIGS.parent / "rlcap" / "config" / f"{file}.py").read_text(encoding="utf-8")
        found = {f"{section}{name}" for name in places.findall(source) if name not in below_others}
        assert found == {key for key in PATHS if key.startswith(section) and (section or "." not in key)}
    assert all(setting_type(RunConfig, key) is str for key in PATHS)


def test_captions_may_be_as_long_as_a_new_language_model_has_positions_for():
    assert load_config(["sampling.max_new_tokens=64"]).sampling.max_new_tokens == 64
    assert fault_of("sampling.max_new_tokens=65") == (
        "sampling.max_new_tokens must be at most captioner.max_caption_tokens (64) where the language model is a new "
        "one, got 65"
    )
    assert load_config(["sampling.max_new_tokens=65", "captioner.max_caption_tokens=65"])


@pytest.mark.parametrize("given", ["captioner.checkpoint=whisper", "captioner.language_model=smollm"])
def test_sizes_of_a_new_language_model_say_nothing_of_a_given_one(given: str):
    assert load_config([given, "sampling.max_new_tokens=200"]).sampling.max_new_tokens == 200


@pytest.mark.parametrize("experiment", ["quickstart", "esc10", "smoke"])
@pytest.mark.parametrize("kind", AlgorithmKind)
def test_every_experiment_takes_every_algorithm(experiment: str, kind: AlgorithmKind):
    choice = f"algorithm={kind.value}"
    assert load_config([f"experiment={experiment}", "data.root=somewhere", choice]).algorithm.kind is kind


def test_the_quickstart_runs_ppo_with_its_critic():
    assert load_config().algorithm.kind is AlgorithmKind.ppo
    assert load_config(["experiment=esc10", "data.root=somewhere"]).algorithm.kind is AlgorithmKind.rloo


@pytest.mark.parametrize("experiment", [["experiment=quickstart"], ["experiment=esc10", "data.root=recordings"]])
@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([], 5e-4),
        (["captioner.checkpoint=whisper"], 1e-5),
        (["captioner.checkpoint=whisper", "captioner.decoder=lora"], 1e-4),
        (["captioner.checkpoint=whisper", "captioner.decoder=lora", "captioner.freeze_encoder=false"], 1e-5),
        (["captioner.language_model=gpt2"], 1e-5),
        (["captioner.language_model=gpt2", "captioner.decoder=frozen"], 5e-4),
        (["captioner.checkpoint=whisper", "algorithm.learning_rate=3e-6"], 3e-6),
    ],
)
def test_the_policy_moves_as_fast_as_what_is_tuned_of_it_can_bear(experiment, chosen, expected):
    config = load_config([*experiment, *chosen])
    assert config.algorithm.learning_rate == expected
