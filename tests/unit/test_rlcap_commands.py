import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile

from rlcap.checkpoint import write_checkpoint
from rlcap.commands.main import run
from rlcap.config.load import save_config
from rlcap.config.run import RunConfig
from rlcap.errors import RewardError
from rlcap.run_directory import RunDirectory, create_run_directory
from rlcap.types import Quarantined

COMMANDS = [
    ["quickstart"],
    ["train"],
    ["sft"],
    ["clap"],
    ["reward"],
    ["reward", "fit"],
    ["reward", "score"],
    ["reward", "compare"],
    ["prefs"],
    ["prefs", "simulate"],
    ["prefs", "import"],
    ["prefs", "stats"],
    ["eval"],
    ["caption"],
    ["check-captioner"],
    ["report"],
    ["data"],
    ["data", "check"],
    ["bench", "simulate"],
    ["plan"],
]
READS_NOTHING = [["quickstart"], ["prefs"]]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A pipeline without stages: one module stands in for all of it."""
    fake = ModuleType("fake_pipeline")
    for name in ("main_job", "stages", "evaluate_run", "caption_files"):
        monkeypatch.setitem(sys.modules, f"rlcap.pipeline.{name}", fake)
        monkeypatch.setattr(f"rlcap.pipeline.{name}", fake, raising=False)
    return fake


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_teaches(command: Sequence[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        run([*command, "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "examples:" in told
    assert f"rlcap {' '.join(command)}" in told
    assert "reads" in told or command in READS_NOTHING


@pytest.mark.parametrize(
    ("command", "splits"),
    [
        (["sft"], ["captioned", "clap"]),
        (["clap"], ["clap"]),
        (["prefs", "simulate"], ["preference"]),
        (["reward", "fit"], ["preference", "clap", "captioned"]),
        (["eval"], ["heldout"]),
    ],
    ids=str,
)
def test_help_names_the_splits_that_a_command_reads(
    command: list[str], splits: list[str], capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        run([*command, "--help"])
    told = capsys.readouterr().out
    assert all(f"`{split}` split" in told for split in splits)


def test_help_lists_every_command_and_does_not_load_torch_ray_or_hydra():
    script = (
        "import sys\nfrom rlcap.commands.main import run\n"
        "try:\n    run(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'ray', 'hydra', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.endswith("[]\n")
    assert all(f"    {command[0]} " in told for command in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["trian"], ["train", "--seed", "1"], ["caption", "runs/latest"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        run(arguments)
    assert left.value.code == 2
    assert "usage: rlcap" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["quickstart"], ["train"], ["sft"], ["clap"], ["reward", "fit"]], ids=" ".join)
def test_wrong_settings_exit_with_2_and_one_message(command: list[str], capsys: pytest.CaptureFixture[str]):
    assert run([*command, "sed=1", "training.num_updates=-1"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("rlcap: the settings have 2 faults:\n  sed is not a setting; did you mean seed?")
    assert "training.num_updates must be above 0, got -1" in told.err


def test_training_is_given_the_settings_and_a_folder(pipeline: ModuleType, capsys: pytest.CaptureFixture[str]):
    def train(config: RunConfig) -> Path:
        assert (config.experiment, config.seed) == ("smoke", 3)
        return create_run_directory(config).path

    pipeline.run = train
    assert run(["train", "experiment=smoke", "seed=3"]) == 0
    assert capsys.readouterr().out.startswith("Done. The report is runs/smoke-")


def test_a_resumed_run_keeps_its_own_settings(pipeline: ModuleType):
    save_config(RunConfig(run_dir="runs/bees", seed=7), create_run_directory(RunConfig(run_dir="runs/bees")).config)
    seen = []
    pipeline.run = lambda config: seen.append(config) or Path(config.run_dir)
    assert run(["train", "resume=true", "run_dir=runs/bees", "training.num_updates=200"]) == 0
    assert run(["quickstart", "resume=true"]) == 0
    assert [config.seed for config in seen] == [7, 7]
    assert [config.training.num_updates for config in seen] == [200, RunConfig().training.num_updates]
    assert [Path(config.run_dir).name for config in seen] == ["bees", "bees"]
    assert all(config.resume for config in seen)


def test_what_the_start_of_a_run_has_settled_cannot_change_on_resume(
    pipeline: ModuleType, capsys: pytest.CaptureFixture[str]
):
    run_directory = create_run_directory(RunConfig(run_dir="runs/bees", seed=7))
    before = run_directory.config.read_bytes()
    resume = ["train", "resume=true", "run_dir=runs/bees"]
    assert run([*resume, "seed=8", "training.clips_per_batch=8", "captioner.width=64"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("rlcap: the settings have 3 faults:\n")
    assert "seed is settled when a run begins: it was 7 and cannot become 8" in told
    for setting in ("data.max_duration_s=3", "data.soundscapes.rl=9", "sft.num_epochs=1", "reward.clap.num_epochs=1"):
        assert run([*resume, setting]) == 2
        assert capsys.readouterr().err.startswith(f"rlcap: {setting.partition('=')[0]} is settled when a run begins")
    assert run_directory.config.read_bytes() == before
    pipeline.run = lambda config: Path(config.run_dir)
    free = ("data.soundscapes.num_workers=1", "algorithm.kl_coef=0.2", "cluster.num_actors=1", "seed=7")
    assert run([*resume, *free]) == 0


def test_resuming_without_a_run_says_so(pipeline: ModuleType, capsys: pytest.CaptureFixture[str]):
    assert run(["train", "resume=true"]) == 2
    assert "there is no run at runs/latest" in capsys.readouterr().err


def test_a_fault_is_one_sentence_and_exits_with_1(pipeline: ModuleType, capsys: pytest.CaptureFixture[str]):
    def train(config: RunConfig) -> Path:
        raise RewardError("the reward server is gone")

    pipeline.run = train
    assert run(["train"]) == 1
    assert capsys.readouterr().err == "rlcap: the reward server is gone\n"


def test_an_interrupted_run_says_where_to_continue(pipeline: ModuleType, capsys: pytest.CaptureFixture[str]):
    def train(config: RunConfig) -> Path:
        if config.experiment == "smoke":
            run_directory = create_run_directory(config)
            write_checkpoint(run_directory.checkpoints, 10, lambda folder: (folder / "a").touch())
        raise KeyboardInterrupt

    pipeline.run = train
    assert run(["train", "experiment=smoke", "run_dir=runs/bees"]) == 130
    told = capsys.readouterr().err
    assert f"the last checkpoint is {Path('runs/bees/checkpoints/update-000010').absolute()}" in told
    assert f"`rlcap train resume=true run_dir={Path('runs/bees').absolute()}`" in told
    assert run(["train"]) == 130
    assert "give the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "stage"),
    [(["sft"], "sft"), (["clap"], "clap"), (["prefs", "simulate"], "prefs")],
    ids=str,
)
def test_a_stage_runs_and_says_where_its_result_is(
    command: list[str], stage: str, pipeline: ModuleType, capsys: pytest.CaptureFixture[str]
):
    pipeline.run_stage = lambda config, name: Path(f"runs/cache/{name}-{config.seed}")
    assert run([*command, "seed=5"]) == 0
    assert capsys.readouterr().out == f"runs/cache/{stage}-5\n"


def test_a_fit_says_where_its_model_and_its_report_are_and_how_good_it_is(
    pipeline: ModuleType, capsys: pytest.CaptureFixture[str]
):
    accuracy = {"mean": 0.7, "low": 0.62, "high": 0.781, "num_samples": 40}
    overall = {"category": "", "num_pairs": 50, "num_clips": 9, "accuracy": accuracy, "agreement": 0.9}
    machine = overall | {"category": "MM", "num_pairs": 2, "accuracy": None, "agreement": None}
    heldout = {"overall": overall, "categories": [machine], "calibration": {"expected_error": 0.031, "bins": []}}
    curve = [{"share": 0.1, "num_clips": 4, "num_pairs": 20, "accuracy": accuracy}]
    folds = {"num_folds": 5, "figures": heldout}
    Path("fit.json").write_text(
        json.dumps({"heldout": heldout, "learning_curve": curve, "folds": folds}), encoding="utf-8"
    )
    Path("runs/cache/reward-5").mkdir(parents=True)
    Path("runs/cache/reward-5/reward.json").write_text('{"version": "0123456789abcdef"}', encoding="utf-8")
    pipeline.fit_reward = lambda config: SimpleNamespace(
        reward=Path(f"runs/cache/reward-{config.seed}"), figures=Path("fit.json"), page=Path("fit.html")
    )
    assert run(["reward", "fit", "seed=5"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == ["runs/cache/reward-5", "fit.json", "fit.html"]
    rows = [line.split() for line in told[3:]]
    assert ["version", "0123456789abcdef"] in rows
    assert ["held", "out", "50", "9", "70.0%", "62.0%", "to", "78.1%", "90.0%"] in rows
    assert ["MM", "2", "9", "–", "–", "–"] in rows
    assert ["all,", "in", "5", "folds", "50", "9", "70.0%", "62.0%", "to", "78.1%", "90.0%"] in rows
    assert ["expected", "calibration", "error", "3.1%"] in rows
    assert ["10%", "of", "them", "20", "4", "70.0%", "62.0%", "to", "78.1%"] in rows


def test_evaluation_gets_the_run_and_the_settings(pipeline: ModuleType, capsys: pytest.CaptureFixture[str]):
    create_run_directory(RunConfig(run_dir="runs/bees"))
    pipeline.evaluate = lambda path, overrides: path / "-".join(overrides)
    assert run(["eval", "runs/latest", "seed=1"]) == 0
    assert capsys.readouterr().out.endswith("runs/bees/seed=1\n")
    assert run(["eval", "runs/wasps"]) == 2


def test_captions_go_to_stdout_and_bad_files_to_stderr(pipeline: ModuleType, capsys: pytest.CaptureFixture[str]):
    pipeline.caption = lambda _, files, __: iter([(files[0], "a dog barks"), Quarantined("b.wav", "it is empty")])
    assert run(["caption", "runs/latest", "a.wav", "b.wav"]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err) == ("a.wav\ta dog barks\n", "rlcap: b.wav: it is empty\n")
    run(["caption", "--json", "runs/latest", "a.wav", "b.wav"])
    assert capsys.readouterr().out == '{"path": "a.wav", "caption": "a dog barks"}\n'
    run(["caption", "--json", "runs/latest", "caf\udce9.wav"])
    assert json.loads(capsys.readouterr().out)["path"] == "caf\\xe9.wav"


@pytest.mark.parametrize(
    ("given", "files", "settings"),
    [
        (["-0xzr.wav", "a.wav"], ["-0xzr.wav", "a.wav"], []),
        (["a.wav", "--", "-0xzr.wav", "--json"], ["a.wav", "-0xzr.wav", "--json"], []),
        (["--exists.wav"], ["--exists.wav"], []),
        (["a.wav", "data.max_duration_s=600"], ["a.wav"], ["data.max_duration_s=600"]),
        (["take.one=1.wav"], ["take.one=1.wav"], []),
        (["caf\udce9.wav"], ["caf\udce9.wav"], []),
    ],
)
def test_files_of_any_name_are_captioned_beside_settings(
    pipeline: ModuleType, given: list[str], files: list[str], settings: list[str]
):
    for name in ("--exists.wav", "take.one=1.wav"):
        Path(name).touch()
    asked: list[object] = []
    pipeline.caption = lambda *arguments: asked.append(arguments) or iter([])
    assert run(["caption", "runs/latest", *given]) == 0
    assert asked == [(Path("runs/latest"), [Path(name) for name in files], settings)]


def test_an_option_that_there_is_none_of_and_settings_without_a_file_are_refused(
    pipeline: ModuleType, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        run(["caption", "--jsn", "runs/latest", "a.wav"])
    assert "--jsn" in capsys.readouterr().err
    pipeline.caption = lambda *_: iter([])
    assert run(["caption", "runs/latest", "data.max_duration_s=600"]) == 2


def test_names_that_are_not_utf_8_are_written_as_the_bytes_that_they_are():
    code = "from rlcap.commands.terminal import say; say('caf\\udce9.wav')"
    for encoding in ("utf-8:strict", "utf-8:surrogateescape"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        assert said.stdout == b"caf\xe9.wav\n"


def test_a_report_is_written_of_the_latest_run(capsys: pytest.CaptureFixture[str]):
    run_directory: RunDirectory = create_run_directory(RunConfig())
    assert run(["report"]) == 0
    assert capsys.readouterr().out == f"{run_directory.report.resolve()}\n"
    assert run_directory.report.is_file()
    assert run(["report", "runs/none"]) == 2


VOTES = """clip_id,caption_a,caption_b,preferred
a,a dog barks,a cat meows,a
a,a dog barks,a cat meows,tie
b,rain falls,wind blows,B
"""


def test_preferences_are_imported_and_described(capsys: pytest.CaptureFixture[str]):
    Path("votes.csv").write_text(VOTES, encoding="utf-8")
    assert run(["prefs", "import", "votes.csv", "pairs.parquet"]) == 0
    assert capsys.readouterr().out == "pairs.parquet: 2 pairs of 2 clips\n"
    assert run(["prefs", "stats", "pairs.parquet"]) == 0
    heading, figures = capsys.readouterr().out.splitlines()
    assert heading.split() == ["pairs", "clips", "votes", "undecided", "A", "wins", "agreement"]
    assert figures.split() == ["all", "2", "2", "3", "0.0%", "100.0%", "–"]  # the import exchanged b's captions


def test_an_import_overwrites_nothing(capsys: pytest.CaptureFixture[str]):
    Path("votes.csv").write_text(VOTES, encoding="utf-8")
    Path("pairs.parquet").touch()
    assert run(["prefs", "import", "votes.csv", "pairs.parquet"]) == 1
    assert "pairs.parquet is there already" in capsys.readouterr().err


def write_tone(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(16_000)), 16_000)


def test_recordings_are_checked_before_a_run_needs_them(capsys: pytest.CaptureFixture[str]):
    write_tone(Path("clips/a.wav"))
    write_tone(Path("clips/b.wav"))
    Path("clips/c.wav").write_bytes(b"no audio")
    Path("clips/manifest.csv").write_text("path,fold,label\na.wav,1,dog\nb.wav,2,cat\nc.wav,3,car\n", encoding="utf-8")
    arguments = ["data", "check", "data.kind=manifest", "data.root=clips", "data.split_column=fold"]
    folds = ["data.splits={captioned: ['1'], clap: ['1', '2'], preference: ['2'], rl: ['3'], heldout: ['4']}"]
    assert run([*arguments, "data.label_columns=[label]", *folds, "--quarantine", "bad.csv"]) == 1
    told = capsys.readouterr()
    rows = [line.split() for line in told.out.splitlines()]
    assert told.out.startswith(
        "Decoded all 3 recordings; 2 can be used.\nThey last 0.0 minutes, 1.0 to 1.0 s each; 16 kHz"
    )
    assert ["clap", "2", "0", "2", "0"] in rows
    assert ["rl", "1", "1", "1", "0"] in rows
    assert "no clip of the split rl can be used" in told.err
    assert "no clip belongs to the split heldout" in told.err
    assert Path("bad.csv").read_text(encoding="utf-8").splitlines()[1].startswith("c.wav,")


ESC_50 = ("data.root=ESC-50", "data.manifest=meta/esc50.csv", "data.audio_dir=audio", "data.path_column=filename",
    "data.label_columns=[category]", 'data.keep_rows={esc10: ["True"]}')  # fmt: skip


def test_esc10_reads_a_manifest_and_the_table_of_esc_50_where_its_columns_are_named(capsys: pytest.CaptureFixture[str]):
    rows = [(f"{fold}-{esc10}.wav", fold, "dog", esc10) for fold in (1, 2, 3, 4, 5) for esc10 in (True, False)]
    for name, *_ in rows:
        write_tone(Path(f"ESC-50/audio/{name}"))
    Path("ESC-50/meta").mkdir()
    table = "filename,fold,category,esc10\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    Path("ESC-50/meta/esc50.csv").write_text(table, encoding="utf-8")
    assert run(["data", "check", "data=esc10", *ESC_50]) == 0
    assert capsys.readouterr().out.startswith("Decoded all 5 recordings; 5 can be used.")
    assert run(["data", "check", "data=esc10", "data.root=ESC-50"]) == 1
    assert "manifest.csv" in capsys.readouterr().err
    manifest = "path,label,fold\n" + "".join(f"audio/{name},dog,{fold}\n" for name, fold, *_ in rows)
    Path("ESC-50/manifest.csv").write_text(manifest, encoding="utf-8")
    assert run(["data", "check", "experiment=esc10", "data.root=ESC-50"]) == 0
    assert capsys.readouterr().out.startswith("Decoded all 10 recordings; 10 can be used.")


def test_a_part_of_the_recordings_can_be_checked(capsys: pytest.CaptureFixture[str]):
    for index in range(9):
        write_tone(Path(f"clips/{index}.wav"))
    assert run(["data", "check", "data.kind=folder", "data.root=clips", "--limit", "3"]) == 0
    assert capsys.readouterr().out.startswith("Decoded 3 of 9 recordings; 3 can be used.")


def test_soundscapes_need_no_check(capsys: pytest.CaptureFixture[str]):
    assert run(["data", "check"]) == 0
    assert "there are no recordings to check" in capsys.readouterr().out
