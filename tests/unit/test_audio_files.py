import os
import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rlcap.audio.decoding import DecodeLimits
from rlcap.audio.files import FileSource, path_below
from rlcap.audio.records import ClipRecord, ClipTable
from rlcap.audio.sources import OPENERS, open_source
from rlcap.config.data import DataConfig, SourceKind
from rlcap.errors import ClipError, DataError
from rlcap.protocols import AudioSource

RATE = 16_000


def write_tone(path: Path, frequency_hz: float = 440.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(RATE // 2) / RATE), RATE)


def folder_config(root: Path, **settings: object) -> DataConfig:
    return DataConfig(kind=SourceKind.folder, root=str(root), **settings)


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    for name in ("b.wav", "a/z.flac", "a/deep/er/c.OGG"):
        write_tone(tmp_path / name)
    for name in ("notes.txt", ".hidden.wav", ".trash/old.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    source = open_source(folder_config(tmp_path))
    assert isinstance(source, AudioSource)
    assert [source.record(position).clip_id for position in range(len(source))] == [
        "a/deep/er/c.OGG",
        "a/z.flac",
        "b.wav",
    ]
    assert source.record(2) == ClipRecord("b.wav", "b.wav")
    clips, quarantined = source.read([2, 0, 2])
    assert [clip.clip_id for clip in clips] == ["b.wav", "a/deep/er/c.OGG", "b.wav"]
    assert quarantined == []


def test_what_cannot_be_used_is_quarantined_and_the_rest_is_read(tmp_path):
    write_tone(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_text("no sound")
    (tmp_path / "c.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(200))
    write_tone(tmp_path / "d.wav")
    source = open_source(folder_config(tmp_path))
    clips, quarantined = source.read(range(4))
    assert [clip.clip_id for clip in clips] == ["a.wav", "d.wav"]
    assert [item.path for item in quarantined] == ["b.wav", "c.m4a"]
    assert all(item.reason.startswith("not audio that can be read") for item in quarantined)


def test_files_that_vanish_after_opening_are_quarantined(tmp_path):
    write_tone(tmp_path / "a.wav")
    source = open_source(folder_config(tmp_path))
    (tmp_path / "a.wav").unlink()
    assert source.read([0])[1][0].reason == "missing file"


def test_links_out_of_the_root_are_quarantined_and_links_within_it_read(tmp_path):
    root = tmp_path / "root"
    write_tone(tmp_path / "secret.wav")
    write_tone(root / "a.wav")
    (root / "b.wav").symlink_to(root / "a.wav")
    (root / "c.wav").symlink_to(tmp_path / "secret.wav")
    clips, quarantined = open_source(folder_config(root)).read(range(3))
    assert [clip.clip_id for clip in clips] == ["a.wav", "b.wav"]
    assert quarantined[0].reason == "path leads out of the root folder"


def test_a_root_behind_a_link_is_a_root(tmp_path):
    write_tone(tmp_path / "real/a.wav")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    clips, _ = open_source(folder_config(tmp_path / "link")).read([0])
    assert len(clips) == 1


@pytest.mark.parametrize("path", ["../x.wav", "a/../../x.wav", "/etc/passwd", "../root-not/x.wav"])
def test_paths_out_of_the_root_are_refused(tmp_path, path):
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(ClipError, match="leads out of the root folder"):
        path_below(root.resolve(), path)


@pytest.mark.parametrize("path", ["a\0b.wav", "x" * 5_000])
def test_what_cannot_be_a_path_is_quarantined(tmp_path, path):
    records = ClipTable.of([ClipRecord("clip", path)])
    clips, quarantined = FileSource(tmp_path, records, DecodeLimits()).read([0])
    assert not clips
    assert quarantined[0].reason.partition(":")[0] in {"not a path", "file cannot be opened"}


def test_faults_of_a_folder_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match="hold no audio files, such as"):
        open_source(folder_config(tmp_path))
    with pytest.raises(DataError, match=r"expected a folder at .*nowhere, found nothing there"):
        open_source(folder_config(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="found a file"):
        open_source(folder_config(tmp_path / "file"))


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))).touch()
    with pytest.raises(DataError, match=r"caf\\xe9.wav: file name that is not UTF-8: rename"):
        open_source(folder_config(tmp_path))


def test_positions_outside_the_source_are_refused(tmp_path):
    write_tone(tmp_path / "a.wav")
    source = open_source(folder_config(tmp_path))
    for position in (-1, 1):
        with pytest.raises(IndexError, match="position must lie in"):
            source.read([position])


def test_a_source_travels_to_other_processes(tmp_path):
    write_tone(tmp_path / "a.wav")
    source = pickle.loads(pickle.dumps(open_source(folder_config(tmp_path))))
    assert source.read([0])[0][0].clip_id == "a.wav"


def test_limits_of_the_settings_decide_what_is_used(tmp_path):
    write_tone(tmp_path / "a.wav")
    source = open_source(folder_config(tmp_path, min_duration_s=0.6))
    assert source.read([0])[1][0].reason == "shorter than 0.6 s: 0.5 s"


def test_every_kind_of_recordings_is_opened_here():
    assert set(OPENERS) == set(SourceKind) - {SourceKind.soundscapes, SourceKind.none}
    with pytest.raises(ValueError, match="got soundscapes"):
        open_source(DataConfig())
    with pytest.raises(DataError, match="there is no audio to open"):
        open_source(DataConfig(kind=SourceKind.none))


def test_what_a_folder_passes_over_is_counted(tmp_path):
    root = tmp_path / "root"
    write_tone(root / "a.wav")
    write_tone(tmp_path / "elsewhere/b.wav")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "notes.txt").touch()
    (root / ".hidden.wav").touch()
    (root / ".trash").mkdir()
    (Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.wav"))).touch()
    source = open_source(folder_config(root))
    assert len(source) == 1
    assert source.left_out.passed_over == {
        "hidden files and folders": 2,
        "linked folders": 1,
        "files of other kinds": 1,
    }
    assert [bad.path for bad in source.left_out.quarantined] == ["caf\\xe9.wav"]


def test_a_folder_that_cannot_be_opened_is_told(tmp_path, monkeypatch):
    write_tone(tmp_path / "a.wav")
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    source = open_source(folder_config(tmp_path))
    assert [bad.reason for bad in source.left_out.quarantined] == ["folder cannot be opened: Permission denied"]


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_file_is_found_by_the_other_unicode_form_of_its_name(tmp_path, on_disk, in_table):
    name = "caf\u00e9/m\u00fcll.wav"
    write_tone(tmp_path / unicodedata.normalize(on_disk, name))
    (tmp_path / "manifest.csv").write_text(f"path\n{unicodedata.normalize(in_table, name)}\ncaf\u00e9/gone.wav\n")
    source = open_source(DataConfig(kind=SourceKind.manifest, root=str(tmp_path)))
    clips, quarantined = source.read([0, 1])
    assert len(clips) == 1
    assert [bad.reason for bad in quarantined] == ["missing file"]
