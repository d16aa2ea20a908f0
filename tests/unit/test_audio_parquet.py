import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from rlcap.audio import parquet
from rlcap.audio.records import ClipRecord
from rlcap.audio.sources import open_source
from rlcap.config.data import DataConfig, SourceKind
from rlcap.errors import DataError

RATE = 16_000


def tone(frequency_hz: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(RATE // 2) / RATE), RATE, format="FLAC")
    return file.getvalue()


def config(root: Path, **settings: object) -> DataConfig:
    return DataConfig(kind=SourceKind.parquet, root=str(root), **settings)


def write(path: Path, audio: pa.Array, row_group_size: int = 2, **columns: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"audio": audio, **columns}), path, row_group_size=row_group_size)


def pitch(waveform: np.ndarray) -> int:
    return int(np.abs(np.fft.rfft(waveform)).argmax()) * 2


def test_bytes_are_read_from_any_row_group_of_any_file(tmp_path):
    pitches = [100 * number for number in range(1, 8)]
    write(tmp_path / "data/0.parquet", pa.array([tone(hz) for hz in pitches[:5]]))
    write(tmp_path / "data/1.parquet", pa.array([tone(hz) for hz in pitches[5:]], pa.large_binary()))
    source = open_source(config(tmp_path))
    assert len(source) == 7
    assert source.record(5) == ClipRecord("data/1:0", "data/1:0")
    order = [6, 0, 4, 1, 5, 2, 3]
    clips, quarantined = source.read(order)
    assert [pitch(clip.waveform) for clip in clips] == [pitches[position] for position in order]
    assert quarantined == []
    assert [clip.clip_id for clip in pickle.loads(pickle.dumps(source)).read([6])[0]] == ["data/1:1"]


def test_the_pickled_source_holds_no_audio(tmp_path):
    noise = np.random.default_rng(0).bytes(2_000_000)
    write(tmp_path / "0.parquet", pa.array([noise]))
    source = open_source(config(tmp_path))
    source.read([0])
    assert len(pickle.dumps(source)) < 100_000


def test_hugging_face_files_hold_bytes_or_paths_below_the_root(tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/b.flac").write_bytes(tone(200))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [
        {"bytes": tone(100), "path": "a.flac"},
        {"bytes": None, "path": "audio/b.flac"},
        {"bytes": None, "path": "/etc/passwd"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"", "path": None},
    ]
    write(tmp_path / "0.parquet", pa.array(cells, kind))
    clips, quarantined = open_source(config(tmp_path)).read(range(6))
    assert [pitch(clip.waveform) for clip in clips] == [100, 200]
    assert [(item.path, item.reason) for item in quarantined] == [
        ("0:2", "path leads out of the root folder"),
        ("0:3", "no audio in this row"),
        ("0:4", "no audio in this row"),
        ("0:5", "empty file"),
    ]


def test_other_columns_become_ids_labels_captions_and_splits(tmp_path):
    columns = {"name": ["3", "4"], "kind": [1, 0], "tags": [["x"], None], "text": ["a dog", None], "fold": [1, 2]}
    table = pa.table({"sound": pa.array([tone(100), tone(200)]), **columns})
    features = {"kind": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "text": {"_type": "Value"}}
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(described), tmp_path / "0.parquet")
    source = open_source(
        config(
            tmp_path,
            audio_column="sound",
            clip_id_column="name",
            label_columns=["kind", "tags"],
            caption_column="text",
            split_column="fold",
        )
    )
    assert source.record(0) == ClipRecord("3", "0:0", ("dog", "x"), ("a dog",), "1")
    assert source.record(1) == ClipRecord("4", "0:1", ("cat",), (), "2")


def test_faults_say_what_is_wrong(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"holds no \.parquet files"):
        open_source(config(tmp_path))
    path = tmp_path / "0.parquet"
    write(path, pa.array([tone(100)]), kind=["dog"])
    with pytest.raises(DataError, match="has no column 'sound'; columns there: audio, kind"):
        open_source(config(tmp_path, audio_column="sound"))
    with pytest.raises(DataError, match=r"column 'kind' of .* must hold encoded audio as bytes, got string"):
        open_source(config(tmp_path, audio_column="kind"))
    with pytest.raises(DataError, match="has no column 'label'; columns there: audio, kind"):
        open_source(config(tmp_path, label_columns=["label"]))
    monkeypatch.setattr(parquet, "MAX_ROW_GROUP_BYTES", 1_000)
    with pytest.raises(DataError, match="write it again with row_group_size=16"):
        open_source(config(tmp_path))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        open_source(config(tmp_path))


def test_files_without_rows_are_no_source(tmp_path):
    write(tmp_path / "0.parquet", pa.array([], pa.binary()))
    with pytest.raises(DataError, match="holds no clips"):
        open_source(config(tmp_path))


def test_a_damaged_row_group_is_named(tmp_path):
    write(tmp_path / "0.parquet", pa.array([np.random.default_rng(0).bytes(5_000) for _ in range(4)]))
    source = open_source(config(tmp_path))
    content = bytearray((tmp_path / "0.parquet").read_bytes())
    content[4:9_000] = bytes(8_996)
    (tmp_path / "0.parquet").write_bytes(content)
    _, quarantined = source.read([0])
    assert quarantined[0].reason.startswith("row group cannot be read: 0 of 0.parquet")


def test_rows_and_files_that_cannot_be_used_are_left_out_and_the_others_found_in_their_places(tmp_path):
    audio = pa.array([tone(100 * number) for number in range(1, 5)])
    write(tmp_path / "0.parquet", audio, label=["dog", None, "cat", "dog"], id=["a", None, "c", "d"])
    write(tmp_path / "1.parquet", audio[:2], label=["dog", "cat"], id=["e", "c"])
    write(tmp_path / "2.parquet", audio[:1], other=["x"])
    (tmp_path / "3.parquet").write_bytes(b"PAR1")
    source = open_source(config(tmp_path, label_columns=["label"], clip_id_column="id"))
    assert [source.record(position).clip_id for position in range(len(source))] == ["a", "d", "e"]
    assert [pitch(clip.waveform) for clip in source.read([0, 1, 2])[0]] == [100, 400, 100]
    told = {bad.path: bad.reason for bad in source.left_out.quarantined}
    assert told["2.parquet"].startswith("bad file: ")
    assert told["3.parquet"].startswith("bad file: ")
    assert told["0.parquet, row 2"] == "bad row: column 'id': expected text, found nothing"
    assert told["0:2"] == told["1:1"]
    assert told["0:2"].startswith(
        "ambiguous clip id: 'c' stands 2 times, such as for 0:2 and 1:1; give every clip an id"
    )


@pytest.mark.parametrize(
    ("features", "number", "message"),
    [
        ({"kind": {"names": ["cat"], "_type": "ClassLabel"}}, 1, "expected the number of one of 1 classes, found 1"),
        ({"kind": {"names": ["cat"], "_type": "ClassLabel"}}, -2, "expected the number of one of 1 classes, found -2"),
        ({"kind": {"names": [7], "_type": "ClassLabel"}}, 0, "expected text or a list of texts, found the number 7"),
        ({"kind": {"names": None, "_type": "ClassLabel"}}, 0, "expected text or a list of texts, found the number 0"),
        ([], 0, "expected text or a list of texts, found the number 0"),
    ],
)
def test_class_numbers_without_a_name_are_refused(tmp_path, features, number, message):
    table = pa.table({"audio": pa.array([tone(100)]), "kind": [number]})
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(described), tmp_path / "0.parquet")
    with pytest.raises(DataError, match=message):
        open_source(config(tmp_path, label_columns=["kind"]))
