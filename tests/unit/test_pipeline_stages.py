"""The stages before PPO on a handful of recordings, at their smallest."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny_models import WHISPER_PROMPT, save_tiny_model
from tiny_parts import save_clap, save_language_model

from rlcap.captioners.loading import load_captioner
from rlcap.config.load import load_config
from rlcap.config.reward import HeadKind
from rlcap.errors import CheckpointError, ConfigError, DataError, PreflightError
from rlcap.pipeline.preflight import make_all
from rlcap.pipeline.reward_fitting import FIT_FILE, FIT_PAGE
from rlcap.pipeline.stages import PAIRS_FILE, Stages, run_stage
from rlcap.preferences.pairs import PreferencePair, read_pairs, write_pairs

NUM_CLIPS = 24
SPLITS = "data.splits={captioned: [a], clap: [a], preference: [b], rl: [b], heldout: [c]}"


@pytest.fixture
def stages(tmp_path: Path):
    """Return a function that makes the stages of 24 recordings: half captioned by people, half without a word."""
    rows = []
    for index in range(NUM_CLIPS + 1):
        split = "c" if index == NUM_CLIPS else "ab"[index % 2]
        text = f"A Flute, playing no. {index}." if split == "a" else ""
        rows.append((f"{index}.wav", "flute" if split == "c" else "", f'"{text}"', split))
        soundfile.write(tmp_path / f"{index}.wav", 0.3 * np.sin(np.arange(8_000) * (index + 1) / 50), 16_000)
    table = "path,label,text,part\n" + "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / "manifest.csv").write_text(table, encoding="utf-8")
    columns = ["data.label_columns=[label]", "data.caption_column=text", "data.split_column=part"]
    places = [f"data.root={tmp_path}", f"cache_dir={tmp_path}/cache"]

    def make(*settings: str) -> Stages:
        return Stages(load_config(["experiment=smoke", "data.kind=manifest", *places, *columns, SPLITS, *settings]))

    return make


def votes(clip_ids: list[str]) -> list[PreferencePair]:
    return [PreferencePair(clip_id, f"a flute {rank}", "flute", (1,)) for clip_id in clip_ids for rank in range(3)]


def preference_ids() -> list[str]:
    return [f"{index}.wav" for index in range(1, NUM_CLIPS, 2)]


def test_a_baseline_knows_the_words_that_people_have_written(stages):
    captioner = load_captioner(stages().baseline.path)
    words = set(captioner.tokenizer.get_vocab())
    assert {"flute", "playing", "no", "22"} <= words
    assert not words & {"A", "Flute,", "no.", "1"}


def test_the_votes_of_people_make_a_reward_model_without_labels_or_a_baseline(stages, tmp_path, capfd):
    strangers = ["elsewhere.wav", "0.wav"]
    write_pairs(votes([*preference_ids(), *strangers]), tmp_path / "pairs.parquet")
    some = stages(f"reward.preferences={tmp_path}/pairs.parquet")
    result = some.reward(HeadKind.mlp)
    told = " ".join(capfd.readouterr().err.split())
    assert "6 of 42 preference pairs are left out: their clips are not in the split preference" in told
    assert {pair.clip_id for pair in read_pairs(some.preferences.path / PAIRS_FILE)} == set(preference_ids())
    metrics = json.loads((result.path / "metrics.json").read_text())
    assert sum(metrics[f"num_{part}_pairs"] for part in ("train", "validation", "heldout")) == 36
    assert set(some.results) == {"clap", "preferences-given", "reward-mlp"}


def test_a_fit_is_measured_in_a_folder_of_its_own_and_what_is_asked_of_it_fits_no_other_model(stages, tmp_path):
    write_pairs(votes(preference_ids()), tmp_path / "pairs.parquet")
    given = (f"reward.preferences={tmp_path}/pairs.parquet",)
    some = stages(*given)
    report = json.loads((some.fit_report(HeadKind.mlp).path / FIT_FILE).read_text(encoding="utf-8"))
    metrics = json.loads((some.reward(HeadKind.mlp).path / "metrics.json").read_text())
    assert report["heldout"]["overall"]["accuracy"]["mean"] == pytest.approx(metrics["heldout_accuracy"])
    assert report["learning_curve"][-1]["num_pairs"] == metrics["num_train_pairs"]
    assert report["learning_curve"][-1]["accuracy"] == report["heldout"]["overall"]["accuracy"]
    assert (some.fit_report(HeadKind.mlp).path / FIT_PAGE).read_text(encoding="utf-8").startswith("<!doctype html>")
    folded = stages(*given, "reward.fit_report.num_folds=3", "reward.fit_report.learning_curve=[]")
    assert folded.reward(HeadKind.mlp).cached
    report = json.loads((folded.fit_report(HeadKind.mlp).path / FIT_FILE).read_text(encoding="utf-8"))
    assert report["folds"]["figures"]["overall"]["num_clips"] == NUM_CLIPS // 2


def test_pairs_of_clips_that_cannot_be_read_are_left_out_of_the_fit_and_counted(stages, tmp_path, capfd):
    write_pairs(votes(preference_ids()), tmp_path / "pairs.parquet")
    (tmp_path / "1.wav").write_bytes(b"no audio")
    some = stages(f"reward.preferences={tmp_path}/pairs.parquet")
    some.reward(HeadKind.mlp)
    told = " ".join(capfd.readouterr().err.split())
    assert "3 of 36 preference pairs are left out: their clips could not be read" in told


def test_given_pairs_are_kept_by_their_content(stages, tmp_path):
    path = tmp_path / "pairs.parquet"
    write_pairs(votes(preference_ids()), path)
    first = stages(f"reward.preferences={path}").preferences
    write_pairs(votes(preference_ids()), path)
    assert stages(f"reward.preferences={path}").preferences.cached
    write_pairs(votes(preference_ids()[:-1]), path)
    assert stages(f"reward.preferences={path}").preferences.path != first.path


def test_pairs_of_other_clips_and_files_that_are_not_there_are_refused_at_launch(stages, tmp_path):
    quick = ("training.supervised=false", f"reward.preferences={tmp_path}/pairs.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        make_all(stages(*quick).data_checks())
    write_pairs([], tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match="holds no preference pairs"):
        make_all(stages(*quick).data_checks())
    write_pairs(votes(["elsewhere"]), tmp_path / "pairs.parquet")
    fault = r"none of the 3 preference pairs .* of the split preference: .* 'elsewhere' there and '1.wav' here"
    with pytest.raises(DataError, match=fault):
        make_all(stages(*quick).data_checks())
    with pytest.raises(ConfigError, match=r"reward\.preferences must name a \.parquet file"):
        stages("reward.preferences=votes.csv")


def test_data_that_a_later_stage_cannot_use_is_refused_at_launch(stages, tmp_path):
    write_pairs(votes(preference_ids()), tmp_path / "pairs.parquet")
    given = f"reward.preferences={tmp_path}/pairs.parquet"
    with pytest.raises(PreflightError, match=r"1\.wav of the split preference has no label"):
        make_all(stages().data_checks())
    with pytest.raises(DataError, match=r"1\.wav of the split rl has neither .* training\.supervised=false"):
        make_all(stages(given).data_checks())
    make_all(stages(given, "training.supervised=false").data_checks())
    with pytest.raises(DataError, match=r"24\.wav of the split heldout has no label"):
        make_all(stages(given, "training.supervised=false", "data.label_columns=[]").data_checks())
    with pytest.raises(PreflightError, match=r"0\.wav of the split captioned has neither caption nor label"):
        make_all(stages(given, "data.caption_column=''").data_checks())
    assert not list((tmp_path / "cache").glob("clap-*"))


def test_a_baseline_is_made_of_a_language_model_and_a_clap_that_are_given(stages, tmp_path):
    model, clap = save_language_model("opt", tmp_path / "opt"), save_clap(tmp_path / "clap")
    some = stages(
        f"captioner.language_model={model}",
        f"captioner.audio_encoder={clap}",
        "captioner.mapper=transformer",
        "captioner.mapper_layers=1",
        "captioner.decoder=frozen",
    )
    captioner = load_captioner(some.baseline.path)
    assert set(some.results) == {"baseline"}, "no CLAP is trained for it"
    assert type(captioner.language_model).__name__ == "OPTForCausalLM"
    assert captioner.audio_tower.width == 16
    assert stages("captioner.mapper=transformer", "captioner.mapper_layers=1").baseline.path != some.baseline.path
    save_language_model("opt", tmp_path / "opt", seed=1)
    again = stages(*(f"captioner.{name}={path}" for name, path in (("language_model", model), ("audio_encoder", clap))))
    assert not again.baseline.cached


@pytest.mark.parametrize("decoder", ["full", "lora"])
def test_a_checkpoint_of_any_family_is_taught_where_that_is_asked_for_and_else_copied(stages, tmp_path, decoder):
    checkpoint = save_tiny_model("whisper", tmp_path / "whisper")
    own = (f"captioner.checkpoint={checkpoint}", f"captioner.prompt='{WHISPER_PROMPT}'", f"captioner.decoder={decoder}")
    copied, taught = stages(*own).baseline.path, stages(*own, "captioner.supervise=true").baseline.path
    given, before, after = (load_file(path / "model.safetensors") for path in (checkpoint, copied, taught))
    assert all(torch.equal(weights, given[name]) for name, weights in before.items())
    changed = {name for name, weights in before.items() if not torch.equal(weights, after[name])}
    assert before.keys() == after.keys(), "adapters are merged into the baseline"
    assert {name.split(".")[1] for name in changed} == {"decoder"}
    assert any(name.endswith("embed_tokens.weight") for name in changed) is (decoder == "full")
    assert run_stage(stages(*own).config, "sft") == taught


def test_a_prefix_captioner_is_taught_further(stages):
    first = stages().baseline.path
    taught = stages(f"captioner.checkpoint={first}", "captioner.supervise=true").baseline.path
    before, after = (load_captioner(path).state_dict() for path in (first, taught))
    learnt = {name.partition(".")[0] for name, weights in before.items() if not torch.equal(weights, after[name])}
    assert learnt == {"language_model", "segments_to_prefix", "clip_to_prefix"}


def test_a_captioner_that_cannot_be_used_is_refused_at_launch(stages, tmp_path):
    whisper = save_tiny_model("whisper", tmp_path / "whisper")
    with pytest.raises(CheckpointError, match="nowhere holds no captioner"):
        stages("captioner.checkpoint=nowhere").check_settings()
    with pytest.raises(CheckpointError, match=r"captioner\.decoder=frozen leaves nothing to tune"):
        stages(f"captioner.checkpoint={whisper}", "captioner.decoder=frozen").check_settings()
    with pytest.raises(CheckpointError, match=r"captioner\.language_model=nowhere cannot be used"):
        stages("captioner.language_model=nowhere").check_settings()
    with pytest.raises(CheckpointError, match=r"captioner\.audio_encoder=.*whisper cannot be used"):
        stages(f"captioner.audio_encoder={whisper}").check_settings()
    with pytest.raises(ConfigError, match=r"sft\.augment must be false where captioner\.audio_encoder"):
        stages("captioner.audio_encoder=x", "captioner.freeze_encoder=false", "sft.augment=true")
