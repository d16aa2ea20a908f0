from pathlib import Path

import numpy as np
import pytest
import soundfile

from rlcap.audio.records import ClipRecord
from rlcap.audio.sources import open_source
from rlcap.audio.subset import select_split
from rlcap.config.data import DataConfig, SourceKind, Split
from rlcap.errors import DataError

CLOTHO_HEADER = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
AUDIOCAPS_HEADER = "audiocap_id,youtube_id,start_time,caption\n"


def write_sound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * np.ones(8_000), 16_000)


def clotho(root: Path, manifest: str = "", **settings: object) -> DataConfig:
    return DataConfig(kind=SourceKind.clotho, root=str(root), manifest=manifest, **settings)


def audiocaps(root: Path, manifest: str = "", **settings: object) -> DataConfig:
    return DataConfig(kind=SourceKind.audiocaps, root=str(root), manifest=manifest, **settings)


def test_clotho_is_read_as_it_is_unpacked(tmp_path):
    for name in ("development/a b.wav", "evaluation/a b.wav"):
        write_sound(tmp_path / name)
    (tmp_path / "clotho_captions_development.csv").write_text(CLOTHO_HEADER + "a b.wav,one,two,three,four,five\n")
    (tmp_path / "clotho_captions_evaluation.csv").write_text(CLOTHO_HEADER + 'a b.wav,"six, seven",,,,\n')
    settings = clotho(tmp_path, split_column="split", splits={"rl": ["development"], "heldout": ["evaluation"]})
    source = open_source(settings)
    captions = ("one", "two", "three", "four", "five")
    path = "development/a b.wav"
    assert source.record(0) == ClipRecord(path, path, (), captions, "development")
    assert source.record(1).captions == ("six, seven",)
    assert len(source.read([0, 1])[0]) == 2
    assert select_split(source, settings, Split.heldout).record(0).split == "evaluation"


def test_one_clotho_table_may_lie_beside_its_audio(tmp_path):
    write_sound(tmp_path / "a.wav")
    (tmp_path / "captions.csv").write_text(CLOTHO_HEADER + "a.wav,one,two,three,four,five\n")
    assert open_source(clotho(tmp_path, "captions.csv")).read([0])[0][0].clip_id == "a.wav"


def test_clotho_faults_are_named(tmp_path):
    (tmp_path / "other.csv").write_text("file,caption\na.wav,x\n")
    with pytest.raises(DataError, match=r"there is no file .*manifest.csv; tables in that folder: other.csv"):
        open_source(clotho(tmp_path, "manifest.csv"))
    with pytest.raises(DataError, match=r"there is no file .*clotho_captions_\*.csv; tables in that folder: other.csv"):
        open_source(clotho(tmp_path))
    with pytest.raises(DataError, match="has no column 'file_name'; columns there: file, caption"):
        open_source(clotho(tmp_path, "other.csv"))


@pytest.mark.parametrize("name", ["abc", "Yabc", "abc_30", "Yabc_30", "abc_30_40", "Yabc_30_40"])
def test_audiocaps_finds_files_by_any_usual_name(tmp_path, name):
    write_sound(tmp_path / f"train/{name}.wav")
    (tmp_path / "train.csv").write_text(AUDIOCAPS_HEADER + "1,abc,30,a dog barks\n")
    source = open_source(audiocaps(tmp_path))
    assert source.record(0) == ClipRecord("abc", f"train/{name}.wav", (), ("a dog barks",), "train")
    assert len(source.read([0])[0]) == 1


def test_audiocaps_gathers_captions_and_quarantines_what_was_not_found(tmp_path):
    write_sound(tmp_path / "-x_y_10.wav")
    (tmp_path / "train.csv").write_text(AUDIOCAPS_HEADER + "1,gone,0,lost\n")
    (tmp_path / "test.csv").write_text(AUDIOCAPS_HEADER + "2,-x_y,10,one\n3,-x_y,10,two\n4,-x_y,20,other\n")
    source = open_source(audiocaps(tmp_path))
    assert [source.record(position) for position in range(3)] == [
        ClipRecord("-x_y_10", "-x_y_10.wav", (), ("one", "two"), "test"),
        ClipRecord("-x_y_20", "-x_y_20.wav", (), ("other",), "test"),
        ClipRecord("gone", "gone_0.wav", (), ("lost",), "train"),
    ]
    clips, quarantined = source.read([0, 1, 2])
    assert len(clips) == 1
    assert [item.reason for item in quarantined] == ["missing file"] * 2


def test_audiocaps_names_a_clip_by_its_video_and_by_its_start_only_where_the_video_has_several(tmp_path):
    write_sound(tmp_path / "abc_30.wav")
    (tmp_path / "train.csv").write_text(AUDIOCAPS_HEADER + "1,abc,30,one\n2,twice,10,two\n")
    (tmp_path / "test.csv").write_text(AUDIOCAPS_HEADER + "3,twice,40,three\n")
    source = open_source(audiocaps(tmp_path))
    assert {source.record(position).clip_id for position in range(3)} == {"abc", "twice_10", "twice_40"}


def test_audiocaps_without_any_file_says_what_names_are_expected(tmp_path):
    (tmp_path / "train.csv").write_text(AUDIOCAPS_HEADER + "1,abc,30,a dog barks\n")
    with pytest.raises(DataError, match=r"no audio file below .* is named by a youtube_id, such as abc_30.wav"):
        open_source(audiocaps(tmp_path))
