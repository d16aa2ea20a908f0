"""Captions for files, by whatever captioner a run or a folder holds."""

import numpy as np
import pytest
import soundfile
from tiny_captioners import adopt, shake

from rlcap.checkpoint import write_checkpoint
from rlcap.config.captioner import DecoderTuning
from rlcap.config.run import RunConfig
from rlcap.errors import CheckpointError, ConfigError
from rlcap.pipeline.caption_files import caption
from rlcap.run_directory import create_run_directory
from rlcap.types import Quarantined


@pytest.fixture
def sounds(tmp_path):
    """Two tones: 1 s and 3 s."""
    files = [tmp_path / "short.wav", tmp_path / "long.wav"]
    for file, duration_s in zip(files, (1, 3), strict=True):
        soundfile.write(file, 0.3 * np.sin(np.arange(16_000 * duration_s) / 9), 16_000)
    return files


@pytest.fixture
def captioners(tmp_path, make_captioner):
    """Two captioner directories, whose captions differ."""
    folders = [tmp_path / "older", tmp_path / "newer"]
    for seed, folder in enumerate(folders):
        make_captioner(seed=seed, max_caption_tokens=24).save(folder)
    return folders


def make_run(tmp_path, make_captioner, *, tuned=None, checkpoint=None, **settings):
    config = RunConfig(run_dir=str(tmp_path / "run"))
    for key, value in settings.items():
        section, name = key.split("__")
        setattr(getattr(config, section), name, value)
    run = create_run_directory(config)
    if tuned is not None:
        make_captioner(seed=tuned, max_caption_tokens=24).save(run.path / "captioners/tuned")
    if checkpoint is not None:
        write_checkpoint(
            run.checkpoints,
            20,
            lambda path: make_captioner(seed=checkpoint, max_caption_tokens=24).save(path / "captioner"),
        )
    return run.path


def test_a_captioner_directory_captions_with_the_default_settings(captioners, sounds):
    older, newer = ([*caption(folder, sounds)] for folder in captioners)
    assert [file for file, _ in older] == sounds
    assert older != newer
    assert max(len(text.split()) for _, text in (*older, *newer)) > 2


@pytest.mark.parametrize(("tuned", "checkpoint", "expected"), [(0, 1, 1), (None, 1, 1), (1, None, 1), (1, 0, 0)])
def test_a_run_captions_by_its_last_checkpoint_and_without_any_by_its_tuned_captioner(
    captioners, sounds, tmp_path, make_captioner, tuned, checkpoint, expected
):
    run = make_run(tmp_path, make_captioner, tuned=tuned, checkpoint=checkpoint)
    assert [*caption(run, sounds)] == [*caption(captioners[expected], sounds)]


def test_the_settings_of_the_run_say_how_long_captions_and_clips_may_be(sounds, tmp_path, make_captioner):
    run = make_run(tmp_path, make_captioner, checkpoint=1, sampling__max_new_tokens=2, data__max_duration_s=2.0)
    short, long = caption(run, sounds)
    assert len(short[1].split()) <= 2
    assert isinstance(long, Quarantined)
    assert long.reason == "longer than 2 s"


def test_settings_that_are_given_hold_for_runs_and_captioners(captioners, sounds, tmp_path, make_captioner):
    run = make_run(tmp_path, make_captioner, checkpoint=1)
    for place in (run, captioners[1]):
        short, long = caption(place, sounds, ["sampling.max_new_tokens=2", "data.max_duration_s=2"])
        assert len(short[1].split()) <= 2
        assert long.reason == "longer than 2 s"
        with pytest.raises(ConfigError, match="max_duration"):
            next(caption(place, sounds, ["data.max_duration=2"]))


def test_adapters_alone_caption_as_the_captioner_that_they_were_merged_into(tiny_checkpoint, sounds, tmp_path):
    for name, alone in (("alone", True), ("merged", False)):
        settings = {"decoder": DecoderTuning.lora, "lora_rank": 2, "adapters_alone": alone}
        tuned = adopt("whisper", tiny_checkpoint("whisper"), **settings)
        shake(tuned)
        tuned.save(tmp_path / name)
    assert not (tmp_path / "alone/config.json").exists()
    assert [*caption(tmp_path / "alone", sounds[:1])] == [*caption(tmp_path / "merged", sounds[:1])]


def test_a_folder_that_holds_neither_is_told(tmp_path, sounds, make_captioner):
    with pytest.raises(CheckpointError, match="neither a captioner directory nor a run with a checkpoint"):
        next(caption(make_run(tmp_path, make_captioner), sounds))
