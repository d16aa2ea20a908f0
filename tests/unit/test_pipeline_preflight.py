"""Whatever would end a run later and shows at its start, one fault a test, and all of them together."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from tiny_models import save_tiny_model
from tiny_parts import save_language_model

from rlcap.algorithm import ray_session
from rlcap.captioners.encoder_decoder import EncoderDecoderCaptioner
from rlcap.checkpoint import write_checkpoint
from rlcap.config.data import Split
from rlcap.config.load import load_config
from rlcap.config.run import RunConfig
from rlcap.errors import CheckpointError, ConfigError, DataError, PreflightError, RlcapError, RunError
from rlcap.pipeline import captioner_trial, disk_room
from rlcap.pipeline.captioner_trial import TriedCaptioner, check_taught, try_captioner
from rlcap.pipeline.disk_room import check_disks, check_next_checkpoint, disk_needs
from rlcap.pipeline.preflight import CHECKS, check_before_stages
from rlcap.pipeline.rollout_ledger import SCHEMA
from rlcap.pipeline.stages import Stages
from rlcap.pipeline.tuning import open_mirror
from rlcap.run_directory import RunDirectory, create_run_directory

SMALL = TriedCaptioner("", 10**6, 10**6, 64, None)
UNWRITABLE = "/proc/nobody-writes-here"


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """Of a run on four recordings with captions and labels."""
    rows = ["path,label,text"]
    for index in range(4):
        soundfile.write(tmp_path / f"{index}.wav", 0.3 * np.sin(np.arange(8_000) * (index + 1) / 50), 16_000)
        rows.append(f"{index}.wav,flute,a flute plays no {index}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    columns = ["data.label_columns=[label]", "data.caption_column=text"]
    places = [f"data.root={tmp_path}", f"cache_dir={tmp_path}/cache", f"run_dir={tmp_path}/run"]
    return ["experiment=smoke", "data.kind=manifest", *columns, *places]


@pytest.fixture
def whisper(tiny_checkpoint: Callable[[str], Path]) -> str:
    return f"captioner.checkpoint={tiny_checkpoint('whisper')}"


def check(settings: list[str], *more: str) -> RunConfig:
    config = load_config([*settings, *more])
    check_before_stages(config, Stages(config))
    return config


def test_a_run_that_will_do_passes_and_leaves_nothing_behind(settings, whisper, tmp_path):
    before = sorted(tmp_path.iterdir())
    check(settings)
    check(settings, whisper)
    assert sorted(tmp_path.iterdir()) == before


FAULTS = {
    "run_dir": ([f"run_dir={UNWRITABLE}"], ConfigError, rf"run_dir={UNWRITABLE} cannot be written to"),
    "run_dir below a file": (["run_dir=/etc/hostname/run"], ConfigError, "/etc/hostname is none"),
    "cache_dir": ([f"cache_dir={UNWRITABLE}"], ConfigError, rf"cache_dir={UNWRITABLE} cannot be written to"),
    "copies": (
        [f"training.checkpoint_dir=file://{UNWRITABLE}"],
        CheckpointError,
        "checkpoint_dir=.* cannot be written",
    ),
    "no such place": (
        ["training.checkpoint_dir=nosuch://x/y"],
        ConfigError,
        "names no place that checkpoints can go to",
    ),
    "tracker": (["tracking.wandb=true"], ConfigError, "needs the wandb package"),
    "cluster": (["cluster.ray_address=127.0.0.1:1"], RunError, "no Ray cluster answers at cluster.ray_address"),
    "too many GPUs": (["cluster.actor_gpus=64"], RunError, "cluster.actor_gpus"),
    "no captioner": (["captioner.checkpoint=/nowhere"], CheckpointError, "/nowhere holds no captioner"),
    "no language model": (["captioner.language_model=/nowhere"], CheckpointError, "captioner.language_model=/nowhere"),
    "no labels": (["data.label_columns=[]"], PreflightError, "has no label"),
    "no data": (["data.root=/nowhere"], DataError, "/nowhere"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_would_fail_later_is_refused_before_the_first_stage(fault, settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    given, kind, message = FAULTS[fault]
    with pytest.raises(RlcapError, match=message) as caught:
        check(settings, *given)
    assert isinstance(caught.value, kind)
    assert not (tmp_path / "run").exists()


def test_all_faults_are_told_at_once_and_each_once(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    given = [f"run_dir={UNWRITABLE}", "tracking.mlflow=true", "captioner.checkpoint=/nowhere", "data.root=/not-here"]
    with pytest.raises(PreflightError) as caught:
        check(settings, *given)
    told = str(caught.value)
    assert told.startswith("the run would fail for 4 reasons:\n")
    for part in ("run_dir=", "mlflow", "/nowhere holds no captioner", "/not-here"):
        assert told.count(part) == 1 or part == "mlflow"


def test_every_check_has_its_say_in_the_order_of_the_list(settings, monkeypatch):
    assert len({each.__doc__ for each in CHECKS}) == len(CHECKS)
    monkeypatch.setattr(ray_session, "choose_ray_folder", _no_place)
    with pytest.raises(RunError, match="Ray finds no place"):
        check(settings)


def _no_place():
    raise RunError("Ray finds no place for its sockets")


def test_a_place_of_copies_that_holds_those_of_another_run_is_refused(settings, tmp_path):
    config = load_config([*settings, f"training.checkpoint_dir=file://{tmp_path}/far"])
    check_before_stages(config, Stages(config))
    assert not list((tmp_path / "far").iterdir()), "the trial is removed"
    (tmp_path / "state").write_bytes(b"0")
    mirror = open_mirror(config)
    mirror.upload(write_checkpoint(tmp_path / "other", 7, lambda folder: (folder / "a").write_bytes(b"0")))
    with pytest.raises(ConfigError, match="holds checkpoints already, up to update 7"):
        check_before_stages(config, Stages(config))
    config.resume = True
    check_before_stages(config, Stages(config))


@pytest.mark.parametrize("architecture", ["whisper", "speech_bart", "qwen2_audio"])
@pytest.mark.parametrize("decoder", ["full", "lora"])
def test_a_captioner_is_tried_as_it_will_be_tuned(architecture, decoder, tiny_checkpoint):
    config = load_config([f"captioner.checkpoint={tiny_checkpoint(architecture)}", f"captioner.decoder={decoder}"])
    tried = try_captioner(config)
    assert 0 < tried.num_trained < tried.num_bytes < 10**7
    assert tried.longest_caption is None or tried.longest_caption > config.sampling.max_new_tokens


def test_a_language_model_is_tried_with_its_prefix(tmp_path):
    model = save_language_model("opt", tmp_path / "opt")
    tried = try_captioner(load_config([f"captioner.language_model={model}"]))
    assert tried.longest_caption is not None
    assert tried.tokenizer is not None


@pytest.mark.parametrize(
    "fault", [OSError("disk"), ValueError("temperature"), RuntimeError("shared"), TypeError("json")]
)
@pytest.mark.parametrize("is_large", [False, True])
def test_a_captioner_that_cannot_be_saved_is_refused(fault, is_large, whisper, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise fault

    if is_large:
        monkeypatch.setattr(captioner_trial, "SAVED_WHOLE_BYTES", 0)
        monkeypatch.setattr("transformers.GenerationConfig.save_pretrained", fail)
    else:
        monkeypatch.setattr(EncoderDecoderCaptioner, "save", fail)
    with pytest.raises(CheckpointError, match=f"cannot be saved as it is tuned: {fault}"):
        try_captioner(load_config([whisper]))


def test_of_a_large_captioner_the_weights_are_not_written(whisper, monkeypatch):
    monkeypatch.setattr(captioner_trial, "SAVED_WHOLE_BYTES", 0)
    monkeypatch.setattr(EncoderDecoderCaptioner, "save", None)
    assert try_captioner(load_config([whisper])).num_bytes > 0


def test_more_new_tokens_than_the_decoder_has_positions_are_refused(whisper):
    with pytest.raises(
        ConfigError, match=r"sampling\.max_new_tokens must be at most \d+, the positions that .* got 64"
    ):
        try_captioner(load_config([whisper, "sampling.max_new_tokens=64", "captioner.max_caption_tokens=64"]))


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    directory = save_tiny_model("whisper", tmp_path / "whisper")
    captioner = EncoderDecoderCaptioner.load(directory)
    captioner.tokenizer.add_tokens([f"word{index}" for index in range(5000)])
    captioner.tokenizer.add_tokens(["rain"])
    captioner.processor.save_pretrained(directory)
    with pytest.raises(CheckpointError, match="they do not belong together"):
        try_captioner(load_config([f"captioner.checkpoint={directory}"]))


def test_captions_longer_than_training_samples_are_announced(capsys):
    short, long = ["a dog"] * 9, ["a dog barks and barks"]
    check_taught(short + long, Split.captioned, SMALL, max_new_tokens=6)
    assert capsys.readouterr().err == ""
    check_taught(short + long, Split.captioned, SMALL, max_new_tokens=5)
    told = " ".join(capsys.readouterr().err.split())
    assert "1 of 10 captions of the split captioned are longer than sampling.max_new_tokens=5" in told


def test_captions_that_a_decoder_has_no_room_for_are_counted_and_named(whisper, capsys):
    for tried, way_out in (
        (try_captioner(load_config([whisper])), "another"),
        (SMALL, "captioner.max_caption_tokens=1001"),
    ):
        check_taught(["a dog", "a dog " * 500], Split.rl, tried, max_new_tokens=2000)
        told = " ".join(capsys.readouterr().err.split())
        assert "1 of 2 captions of the split rl are longer than the" in told
        assert "begins 'a dog a dog" in told
        assert way_out in told


def test_a_language_that_a_tokenizer_does_not_know_is_refused():
    class Tokenizer:
        unk_token_id = 3

        def __call__(self, texts: list[str], **_: object) -> SimpleNamespace:
            return SimpleNamespace(input_ids=[[3 if word.isascii() else 5 for word in text.split()] for text in texts])

    tried = TriedCaptioner("there", 1, 1, None, Tokenizer())
    check_taught(["狗 barks"], Split.captioned, tried, max_new_tokens=24)
    with pytest.raises(DataError, match=r"knows no word of these captions, such as 'a dog'"):
        check_taught(["a dog", "rain"], Split.captioned, tried, max_new_tokens=24)


def full_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free, total=2**50))


def test_a_run_that_its_disk_has_no_room_for_is_refused_and_a_tight_one_announced(settings, monkeypatch, capsys):
    config = load_config([*settings, "training.num_updates=100", "training.keep_last=3"])
    needs = disk_needs(config, SMALL)
    full_disk(monkeypatch, needs.run_dir - 1)
    with pytest.raises(ConfigError, match=r"run_dir=.* needs 0\.1 GB for checkpoints and captioners"):
        check_disks(config, SMALL)
    full_disk(monkeypatch, needs.run_dir)
    check_disks(config, SMALL)
    assert "may run out of room" in " ".join(capsys.readouterr().err.split())
    full_disk(monkeypatch, 2 * (needs.run_dir + needs.cache_dir))
    check_disks(config, SMALL)
    assert capsys.readouterr().err == ""


def test_what_a_run_leaves_follows_from_its_settings(settings):
    def needs(*more: str) -> disk_room.DiskNeeds:
        return disk_needs(load_config([*settings, "training.num_updates=100", *more]), SMALL)

    checkpoint = 10**6 + 3 * 4 * 10**6
    two, three = needs("training.keep_last=2"), needs("training.keep_last=3")
    assert three.run_dir - two.run_dir == checkpoint
    assert needs("training.keep_last=3", "training.checkpoint_dir=file:///x").run_dir == two.run_dir - checkpoint
    assert needs("training.controls=false").cache_dir < two.cache_dir
    assert needs("training.keep_last=99", "training.checkpoint_every_updates=50") == two


def test_a_resumed_run_needs_room_for_its_next_checkpoint(monkeypatch, tmp_path):
    run = RunDirectory(tmp_path)
    check_next_checkpoint(run)
    write_checkpoint(run.checkpoints, 7, lambda folder: (folder / "a").write_bytes(b"0" * 10**6))
    full_disk(monkeypatch, 10**6)
    with pytest.raises(ConfigError, match="for its next checkpoint"):
        check_next_checkpoint(run)


def test_a_small_shared_memory_is_announced(settings, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("rlcap.pipeline.preflight.OBJECT_STORE_BYTES", 2**60)
    check(settings)
    assert "Start a container with --shm-size" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def begun(settings, tmp_path) -> list[str]:
    """Of a run that has used the clips 0 and 1."""
    config = load_config(settings)
    run = create_run_directory(config)
    run.ledger.mkdir()
    row = {"update": 1, "batch_index": 0, "positions": [0, 1], "num_clips": 4, "clip_ids": ["0.wav"]}
    more = {"quarantined": ["1.wav"], "num_captions": 4, "num_unscored": 0}
    pq.write_table(pa.Table.from_pylist([{**row, **more}], schema=SCHEMA), run.ledger / "update-000001.parquet")
    return [*settings, "resume=true"]


def test_recordings_that_have_moved_are_the_same_ones(begun, tmp_path):
    check(begun)
    shutil.copytree(tmp_path, tmp_path / "moved", ignore=shutil.ignore_patterns("run", "cache", "moved"))
    check(begun, f"data.root={tmp_path}/moved")


@pytest.mark.parametrize("change", ["one less", "another name"])
def test_other_recordings_than_a_run_began_with_are_refused(change, begun, tmp_path):
    table = (tmp_path / "manifest.csv").read_text(encoding="utf-8")
    if change == "another name":
        (tmp_path / "0.wav").rename(tmp_path / "00.wav")
        table = table.replace("\n0.wav", "\n00.wav")
    else:
        table = table.rpartition("3.wav")[0]
    (tmp_path / "manifest.csv").write_text(table, encoding="utf-8")
    with pytest.raises(DataError, match="does not hold the clips that the run began with: there were 4"):
        check(begun)
