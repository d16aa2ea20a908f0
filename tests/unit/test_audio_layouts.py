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


def test_rows_that_a_line_break_tore_apart_are_told_and_the_others_used(tmp_path):
    for name in ("a_30", "b_30", "c_30"):
        write_sound(tmp_path / f"train/{name}.wav")
    text = "1,a,30,a dog barks\n2,b,30,an engine with muffled\nspeech\n3,c,30,water\nand a dog,,,\n"
    (tmp_path / "train.csv").write_text(AUDIOCAPS_HEADER + text)
    source = open_source(audiocaps(tmp_path))
    assert [source.record(position).clip_id for position in range(3)] == ["a", "b", "c"]
    told = [(bad.path, bad.reason) for bad in source.left_out.quarantined]
    assert [path for path, _ in told] == ["train.csv, row 3 (line 4)", "train.csv, row 5 (line 6)"]
    assert (
        "1 cell, the header has 4: a line break within a cell must stand in quotes; the row begins with 'sp"
        in told[0][1]
    )
    assert "column 'youtube_id': expected text, found nothing" in told[1][1]


def test_a_table_of_another_kind_beside_is_told_and_files_of_one_name_are_counted(tmp_path):
    for name in ("x/a_30", "y/a_30"):
        write_sound(tmp_path / f"{name}.wav")
    (tmp_path / "train.csv").write_text(AUDIOCAPS_HEADER + "1,a,30,a dog barks\n")
    (tmp_path / "notes.csv").write_text("path,reason\nx,y\n")
    source = open_source(audiocaps(tmp_path))
    assert len(source) == 1
    assert [bad.path for bad in source.left_out.quarantined] == ["notes.csv"]
    assert source.left_out.passed_over == {"files of the same name as another": 1}
