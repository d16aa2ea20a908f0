"""Who hears what how often."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlcap.config.data import Split
from rlcap.errors import DataError
from rlcap.pipeline.listening import EMBEDDINGS_FILE, Listener, read_embeddings
from rlcap.pipeline.stage_cache import StageCache
from rlcap.types import Clip, Quarantined


class Source:
    """Clips of growing loudness; every fourth one cannot be read."""

    def __init__(self, num_clips: int = 150):
        self._num_clips = num_clips

    def __len__(self):
        return self._num_clips

    def read(self, positions):
        (position,) = positions
        if position % 4 == 3:
            return [], [Quarantined(f"{position}.wav", "no, audio")]
        return [Clip(f"clip-{position}", np.full(8_000, position / 200, dtype=np.float32), 16_000)], []


class Clap:
    """Counts what it embeds."""

    def __init__(self, fingerprint: str = "one"):
        self.encoder_fingerprint = fingerprint
        self.num_embedded = 0

    def embed_clips(self, clips):
        self.num_embedded += len(clips)
        return np.array([[clip.waveform[0], -1.0, 3.0] for clip in clips], dtype=np.float32)


@pytest.fixture
def listener(tmp_path: Path):
    """Return a function that makes the listener of a new process."""

    def make(key: str = "clips", num_clips: int = 150) -> Listener:
        clips = SimpleNamespace(source=Source(num_clips), key=key)
        return Listener(lambda _: clips, StageCache(tmp_path / "cache"))

    return make


def test_a_clap_embeds_clips_once_and_what_it_left_on_disk_is_the_same(listener):
    clap = Clap()
    first = listener().embedded(Split.preference, clap)
    assert clap.num_embedded == len(first.clip_ids) == 113
    again = listener().embedded(Split.preference, clap)
    assert clap.num_embedded == 113
    assert (again.clip_ids, again.positions, again.quarantined) == (first.clip_ids, first.positions, first.quarantined)
    np.testing.assert_array_equal(again.audio, first.audio)
    np.testing.assert_allclose(again.audio[:, 0], [position / 200 for position in again.positions], rtol=1e-6)
    assert again.audio.dtype == np.float32
    assert torch.from_numpy(again.audio).shape == (113, 3)


def test_clips_that_could_not_be_embedded_are_listed_by_whoever_reads_the_embeddings(listener):
    listener().embedded(Split.preference, Clap())
    later = listener()
    later.embedded(Split.preference, Clap())
    later.embedded(Split.preference, Clap())
    assert len(later.quarantined) == 37
    assert later.quarantined[0] == Quarantined("3.wav", "no, audio")


def test_another_encoder_other_clips_and_another_split_are_embedded_anew(listener):
    listener().embedded(Split.preference, Clap())
    for key, split, fingerprint in (
        ("clips", Split.preference, "two"),
        ("others", Split.preference, "one"),
        ("others", Split.clap, "one"),
    ):
        clap = Clap(fingerprint)
        listener(key).embedded(split, clap)
        assert clap.num_embedded == 113


def test_frames_are_kept_until_they_are_forgotten(listener):
    one = listener(num_clips=3)
    assert one.log_mel(Split.clap) is one.log_mel(Split.clap)
    before = one.log_mel(Split.clap)
    one.forget()
    assert one.log_mel(Split.clap) is not before


def test_a_source_without_a_clip_that_can_be_read_is_refused(listener):
    one = listener(num_clips=3)
    one._clips(Split.clap).source.read = lambda _: ([], [Quarantined("x.wav", "silent")])
    with pytest.raises(DataError, match="none of the 3 clips could be read; the first reason: silent"):
        one.embedded(Split.clap, Clap())


def test_damaged_embeddings_are_named(tmp_path: Path):
    (tmp_path / EMBEDDINGS_FILE).write_bytes(b"ARROW1 and no more")
    with pytest.raises(DataError, match=r"the embeddings in .* are damaged: .* remove the folder"):
        read_embeddings(tmp_path)
