import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rlcap.audio.arrow_store import CLIPS_PER_BATCH, ClipStore, write_clip_store
from rlcap.errors import DataError
from rlcap.protocols import AudioSource
from rlcap.types import Clip


def clips(count: int):
    for number in range(count):
        waveform = np.random.default_rng(number).uniform(-1, 1, 100 + number).astype(np.float32)
        yield Clip(f"clip-{number}", waveform, 16_000 + number), json.dumps({"number": number})


def test_clips_come_back_by_position_to_sixteen_bits(tmp_path):
    path, count = tmp_path / "deep/er/store.arrow", 2 * CLIPS_PER_BATCH + 5
    assert write_clip_store(path, clips(count)) == count
    store = ClipStore(path)
    assert isinstance(store, AudioSource)
    assert len(store) == count
    written = [clip for clip, _ in clips(count)]
    order = np.random.default_rng(0).permutation(count).tolist()
    read, quarantined = store.read(order)
    assert quarantined == []
    for position, clip in zip(order, read, strict=True):
        assert (clip.clip_id, clip.sample_rate_hz) == (written[position].clip_id, written[position].sample_rate_hz)
        assert clip.waveform.dtype == np.float32
        np.testing.assert_allclose(clip.waveform, written[position].waveform, atol=0.51 / 32_767)
        assert json.loads(store.record_json(position)) == {"number": position}


def test_full_scale_is_kept_and_what_lies_above_it_is_clipped(tmp_path):
    write_clip_store(tmp_path / "s", [(Clip("c", np.array([-2, -1, 0, 1, 2], np.float32), 8_000), "")])
    assert ClipStore(tmp_path / "s").read([0])[0][0].waveform.tolist() == [-1, -1, 0, 1, 1]


@pytest.mark.parametrize("count", [0, 1, CLIPS_PER_BATCH, CLIPS_PER_BATCH + 1])
def test_stores_of_every_size_know_their_length(tmp_path, count):
    write_clip_store(tmp_path / "s", clips(count))
    store = ClipStore(tmp_path / "s")
    assert len(store) == count
    for position in (-1, count):
        with pytest.raises(IndexError, match="position must lie in"):
            store.record_json(position)


def test_a_pickled_store_is_no_more_than_its_path(tmp_path):
    write_clip_store(tmp_path / "s", clips(70))
    travelled = pickle.dumps(ClipStore(tmp_path / "s"))
    assert len(travelled) < 500
    assert pickle.loads(travelled).read([69])[0][0].clip_id == "clip-69"


def test_a_pickled_store_is_found_from_another_working_directory(tmp_path, monkeypatch):
    write_clip_store(tmp_path / "s", clips(1))
    monkeypatch.chdir(tmp_path)
    travelled = pickle.dumps(ClipStore(Path("s")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(travelled).read([0])[0][0].clip_id == "clip-0"


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    def failing():
        yield from clips(100)
        raise RuntimeError("the synthesiser broke")

    write_clip_store(tmp_path / "s", clips(3))
    with pytest.raises(RuntimeError, match="synthesiser"):
        write_clip_store(tmp_path / "s", failing())
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    assert len(ClipStore(tmp_path / "s")) == 3


def test_missing_cut_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no clip store at"):
        ClipStore(tmp_path / "gone")
    write_clip_store(tmp_path / "s", clips(70))
    (tmp_path / "cut").write_bytes((tmp_path / "s").read_bytes()[:-100])
    with pytest.raises(DataError, match="is no clip store, or is damaged"):
        ClipStore(tmp_path / "cut")
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="is no clip store, or is damaged"):
        ClipStore(tmp_path / "empty")
    with pa.ipc.new_file(str(tmp_path / "other"), pa.schema([("x", pa.int8())])):
        pass
    with pytest.raises(DataError, match=r"expected the columns .*, got \['x'\]"):
        ClipStore(tmp_path / "other")
