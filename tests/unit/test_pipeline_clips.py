"""What is known of the clips of each split, and who asks for it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from rlcap.config.data import DataConfig, SoundscapesConfig, SourceKind, Split
from rlcap.errors import DataError
from rlcap.pipeline.clips import SplitClips, open_audio, open_split
from rlcap.pipeline.stage_cache import StageCache
from rlcap.soundscapes.grammar import vocabulary

SPLITS = {split.value: [split.value] for split in Split}


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path / "cache")


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """A table whose clips are known by a label, by a caption, by both, or not at all."""
    rows = [
        ("both.wav", "dog", "A hound barks.", "captioned"),
        ("label.wav", "dog", "", "captioned"),
        ("caption.wav", "", "Rain falls.", "clap"),
        ("heard.wav", "", "", "rl"),
        ("named.wav", "cat", "", "heldout"),
        ("nameless.wav", "", "A cat.", "heldout"),
        ("judged.wav", "", "", "preference"),
    ]
    for name, *_ in rows:
        soundfile.write(tmp_path / name, 0.3 * np.sin(np.arange(8_000)), 16_000)
    table = "path,label,text,split\n" + "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / "manifest.csv").write_text(table, encoding="utf-8")
    return DataConfig(
        kind=SourceKind.manifest,
        root=str(tmp_path),
        label_columns=["label"],
        caption_column="text",
        split_column="split",
        splits=SPLITS,
    )


def fault_of(clips: SplitClips, known: str) -> str:
    with pytest.raises(DataError) as caught:
        getattr(clips, known)()
    return str(caught.value)


def test_ppo_hears_recordings_without_captions_or_labels(config: DataConfig, cache: StageCache):
    source = open_audio(config, cache)
    assert [clip.clip_id for clip in source.read(range(len(source)))[0]] == ["heard.wav"]


def test_captions_are_those_of_people_or_made_from_labels(config: DataConfig, cache: StageCache):
    clips = open_split(config, Split.captioned, cache)
    given, made = clips.known_captions()
    assert given == ("A hound barks.",)
    assert len(made) == 4
    assert all("dog" in caption or "bark" in caption for caption in made)


def test_captions_alone_are_enough_where_captions_are_taught(config: DataConfig, cache: StageCache):
    clips = open_split(config, Split.clap, cache)
    assert clips.known_captions() == (("Rain falls.",),)
    assert clips.scenes == (None,)


def test_a_recording_without_labels_has_no_scene_and_judges_say_which_one(config: DataConfig, cache: StageCache):
    clips = open_split(config, Split.heldout, cache)
    assert [scene and scene.labels for scene in clips.scenes] == [("cat meow",), None]
    fault = fault_of(clips, "known_scenes")
    assert fault.startswith("clip nameless.wav of the split heldout has no label, and the judges of the evaluation")
    assert "set data.label_columns (now ['label'])" in fault


def test_simulated_annotators_need_labels_and_the_votes_of_people_do_without(config: DataConfig, cache: StageCache):
    fault = fault_of(open_split(config, Split.preference, cache), "known_scenes")
    assert "clip judged.wav of the split preference has no label, and the simulated annotators" in fault
    assert fault.endswith("or give the votes of people by reward.preferences")


def test_the_supervised_comparison_names_the_setting_that_leaves_it_out(config: DataConfig, cache: StageCache):
    fault = fault_of(open_split(config, Split.rl, cache), "known_captions")
    assert "clip heard.wav of the split rl has neither caption nor label, and the supervised comparison" in fault
    assert "training.supervised=false" in fault


def test_a_layout_without_labels_is_not_told_to_name_their_columns(config: DataConfig, cache: StageCache):
    folder = DataConfig(kind=SourceKind.folder, root=config.root)
    assert "list the clips in a table" in fault_of(open_split(folder, Split.heldout, cache), "known_scenes")


def test_everything_is_known_of_soundscapes_and_their_captions_hold_no_word_beyond_the_lexicon(cache: StageCache):
    config = DataConfig(soundscapes=SoundscapesConfig(captioned=20, num_workers=1))
    clips = open_split(config, Split.captioned, cache)
    assert len(clips.known_captions()) == len(set(clips.clip_ids)) == 20
    assert all(scene and scene.labels for scene in clips.scenes)
    assert [clip.clip_id for clip in clips.source.read(range(20))[0]] == list(clips.clip_ids)
    words = {word for captions in clips.known_captions() for caption in captions for word in caption.split()}
    assert words <= set(vocabulary(clips.lexicon))


def test_rows_that_are_no_clips_are_told_with_every_split(config: DataConfig, cache: StageCache):
    with (Path(config.root) / "manifest.csv").open("a") as table:
        table.write(",dog,,heldout\n")
    for split in (Split.heldout, Split.rl):
        (bad,) = open_split(config, split, cache).quarantined
        assert bad.path == "manifest.csv, row 8 (line 9)"


def test_processes_that_render_end_with_their_parent_even_by_sigkill():
    code = """
import time
from rlcap.pipeline.clips import _renderers
if __name__ == "__main__":
    with _renderers(1) as pool:
        pool.submit(time.sleep, 0).result()
        print(*pool._processes, flush=True)
        time.sleep(100)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(parent.stdout.readline()))
    worker.send_signal(signal.SIGHUP)
    worker.send_signal(signal.SIGINT)
    assert worker.is_running()
    parent.kill()
    parent.communicate()
    psutil.wait_procs([worker], timeout=30)
    assert not worker.is_running()
