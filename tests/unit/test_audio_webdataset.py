import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rlcap.audio import webdataset
from rlcap.audio.records import ClipRecord
from rlcap.audio.sources import open_source
from rlcap.config.data import DataConfig, SourceKind
from rlcap.errors import DataError

RATE = 16_000


def tone(frequency_hz: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(RATE // 2) / RATE), RATE, format="WAV")
    return file.getvalue()


def write_shard(path: Path, members: dict[str, bytes | str | dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = json.dumps(content) if isinstance(content, dict) else content
            encoded = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(encoded)
            tar.addfile(info, io.BytesIO(encoded))


def config(root: Path, **settings: object) -> DataConfig:
    return DataConfig(kind=SourceKind.webdataset, root=str(root), **settings)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_shard(
        tmp_path / "train/0001.tar",
        {
            "cat.wav": tone(880),
            "cat.json": {"id": "7", "tags": ["cat", "meow"], "text": "a cat", "part": "rl", "unused": "x" * 1000},
            "cat.txt": "a cat meows\n",
        },
    )
    write_shard(
        tmp_path / "train/0000.tar", {"dog.json": {"id": "5", "tags": "dog"}, "dog.wav": tone(440), "./rain.flac": b"?"}
    )
    return tmp_path


def test_shards_are_read_by_key_in_any_order(root):
    source = open_source(config(root))
    assert [source.record(position) for position in range(len(source))] == [
        ClipRecord("train/0000/dog", "train/0000.tar/dog.wav"),
        ClipRecord("train/0000/rain", "train/0000.tar/rain.flac"),
        ClipRecord("train/0001/cat", "train/0001.tar/cat.wav", (), ("a cat meows",)),
    ]
    clips, quarantined = source.read([2, 1, 0])
    assert [clip.clip_id for clip in clips] == ["train/0001/cat", "train/0000/dog"]
    peaks = [np.abs(np.fft.rfft(clip.waveform)).argmax() * 2 for clip in clips]
    assert peaks == [880, 440]
    assert (quarantined[0].path, quarantined[0].reason[:9]) == ("train/0000.tar/rain.flac", "not audio")


def test_json_fields_become_ids_labels_captions_and_splits(root):
    source = open_source(
        config(root, label_columns=["tags"], clip_id_column="id", caption_column="text", split_column="part")
    )
    assert source.record(0) == ClipRecord("5", "train/0000.tar/dog.wav", ("dog",), (), "")
    assert source.record(1) == ClipRecord("train/0000/rain", "train/0000.tar/rain.flac")
    assert source.record(2) == ClipRecord(
        "7", "train/0001.tar/cat.wav", ("cat", "meow"), ("a cat", "a cat meows"), "rl"
    )


def test_the_index_travels_to_other_processes(root):
    source = pickle.loads(pickle.dumps(open_source(config(root))))
    assert len(source.read([0, 2])[0]) == 2


def test_keys_without_audio_and_huge_members_are_quarantined(tmp_path, monkeypatch):
    write_shard(tmp_path / "0.tar", {"a.json": {"x": 1}, "b.wav": tone(440)})
    monkeypatch.setattr(webdataset, "MAX_AUDIO_BYTES", 1_000)
    _, quarantined = open_source(config(tmp_path)).read([0, 1])
    assert [(item.path, item.reason.partition(":")[0]) for item in quarantined] == [
        ("0.tar/a", "no audio among the members of this key"),
        ("0.tar/b.wav", "file too large"),
    ]


def test_a_shard_that_vanishes_or_shrinks_is_a_reason(root):
    source = open_source(config(root))
    (root / "train/0000.tar").write_bytes(b"")
    (root / "train/0001.tar").unlink()
    _, quarantined = source.read([0, 2])
    assert [item.reason for item in quarantined] == ["empty file", "shard cannot be read: No such file or directory"]


def test_links_and_folders_in_a_shard_are_passed_over(tmp_path):
    write_shard(tmp_path / "0.tar", {"a.wav": tone(440)})
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        link = tarfile.TarInfo("b.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        folder = tarfile.TarInfo("c.wav")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert len(open_source(config(tmp_path))) == 1


@pytest.mark.parametrize("cut", [700, 8_000, 17_000])
def test_a_shard_cut_short_is_refused(tmp_path, cut):
    write_shard(tmp_path / "0.tar", {"a.wav": tone(440), "b.wav": tone(440)})
    content = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(content[:cut])
    with pytest.raises(DataError, match=r"0\.tar (cannot be read as an uncompressed tar file|is damaged at byte)"):
        open_source(config(tmp_path))


def test_a_broken_header_amid_a_shard_does_not_pass_for_its_end(tmp_path):
    write_shard(tmp_path / "0.tar", {"a.wav": tone(440), "b.wav": tone(440), "c.wav": tone(440)})
    content = bytearray((tmp_path / "0.tar").read_bytes())
    second = content.index(b"b.wav\0")
    content[second : second + 512] = bytes([7]) * 512
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(DataError, match=f"is damaged at byte {second}"):
        open_source(config(tmp_path))


def test_compressed_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.tar files; compressed shards must be unpacked"):
        open_source(config(tmp_path))
    with tarfile.open(tmp_path / "0.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.wav"))
    with pytest.raises(DataError, match="cannot be read as an uncompressed tar file"):
        open_source(config(tmp_path))
    (tmp_path / "0.tar").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read as an uncompressed tar file"):
        open_source(config(tmp_path))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.wav": b"x", "a.flac": b"x", "a.json": {"tags": []}}, "key 'a' has two audio members, a.wav and a.flac"),
        ({"a.json": b"{"}, "a.json is not JSON"),
        ({"a.json": b"[]"}, "a.json must be a JSON object"),
        ({"a.txt": b"\xff"}, "a.txt is not UTF-8"),
        ({"a.txt": b"x" * (2**20 + 1)}, "holds 1048577 bytes of text, the limit is 1048576"),
        ({"a.wav": b"x", "a.json": {"kind": 1}}, "has no column 'tags'; columns there: kind"),
        ({}, "holds no clips|has no column"),
    ],
)
def test_faults_of_members_are_named(tmp_path, members, message):
    write_shard(tmp_path / "0.tar", members)
    with pytest.raises(DataError, match=message):
        open_source(config(tmp_path, label_columns=["tags"]))


def test_hidden_members_are_passed_over_and_counted(tmp_path):
    write_shard(
        tmp_path / "0.tar", {"./._a.wav": b"\0\5\26\7", "./a.wav": tone(440), ".git/b.wav": b"x", "../c/d.wav": b"x"}
    )
    source = open_source(config(tmp_path))
    assert [source.record(position).clip_id for position in range(2)] == ["0/a", "0/../c/d"]
    assert source.left_out.passed_over == {"hidden members of shards": 2}


def test_a_bad_member_or_shard_spoils_no_other(tmp_path):
    write_shard(
        tmp_path / "0.tar",
        {
            "a.wav": tone(440),
            "a.json": {"tags": ["dog"]},
            "b.wav": b"x",
            "b.json": b"[" * 100_000,
            "c.wav": b"x",
            "c.json": b'{"tags": 7}',
            "v1.0.wav": b"x",
            "v1.5.wav": b"x",
            "d.wav": b"x",
            "d.txt": b"\xff",
        },
    )
    (tmp_path / "1.tar").write_bytes(b"no tar")
    source = open_source(config(tmp_path, label_columns=["tags"]))
    assert len(source) == 1
    assert source.record(0).labels == ("dog",)
    told = {bad.path: bad.reason for bad in source.left_out.quarantined}
    assert list(told) == ["1.tar", "0.tar/b.wav", "0.tar/c.wav", "0.tar/v1.0.wav", "0.tar/d.wav"]
    assert told["1.tar"].startswith("bad shard: ")
    assert "b.json is not JSON: it is nested too deeply" in told["0.tar/b.wav"]
    assert "c.json, column 'tags': expected text or a list of texts, found the number 7" in told["0.tar/c.wav"]
    assert "a key ends at the first dot of the name, so rename" in told["0.tar/v1.0.wav"]


def test_of_a_damaged_shard_the_clips_before_the_last_whole_one_are_used(tmp_path):
    write_shard(tmp_path / "0.tar", {f"{name}.wav": tone(440) for name in "abcd"})
    content = bytearray((tmp_path / "0.tar").read_bytes())
    header = content.index(b"d.wav\0")
    for damaged in (content[:header] + bytes([7]) * 512 + content[header + 512 :], content[: header + 100]):
        (tmp_path / "0.tar").write_bytes(damaged)
        source = open_source(config(tmp_path))
        assert len(source.read(range(len(source)))[0]) == len(source) == 2
        (bad,) = source.left_out.quarantined
        assert bad.reason.startswith("damaged shard: ")
        assert "the 2 clips before 'c' are used, that one may have lost members: copy or build" in bad.reason


def test_a_header_that_leads_back_does_not_go_on_for_ever(tmp_path):
    write_shard(tmp_path / "0.tar", {f"{name}.wav": tone(440) for name in "ab"})
    content = bytearray((tmp_path / "0.tar").read_bytes())
    header = tarfile.TarInfo("b.wav").tobuf(tarfile.GNU_FORMAT)
    negative = (-1024).to_bytes(12, "big", signed=True)
    forged = bytearray(header[:124] + negative + header[136:148] + b" " * 8 + header[156:])
    forged[148:156] = b"%06o\0 " % sum(forged)
    start = content.index(b"b.wav\0")
    content[start : start + 512] = forged
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as an uncompressed tar file"):
        open_source(config(tmp_path))
