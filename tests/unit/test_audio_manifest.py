import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from rlcap.audio.records import ClipRecord
from rlcap.audio.sources import open_source
from rlcap.audio.subset import Subset, select_split
from rlcap.config.data import DataConfig, SourceKind, Split
from rlcap.errors import DataError

ESC10 = Path(__file__).parents[2].parent / "shared/data/esc10"
RATE = 16_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav", "c.wav", "d.wav"):
        soundfile.write(tmp_path / name, 0.5 * np.sin(np.arange(RATE // 2) / 5), RATE)
    return tmp_path


def config(root: Path, manifest: str = "manifest.csv", **settings: object) -> DataConfig:
    return DataConfig(kind=SourceKind.manifest, root=str(root), manifest=manifest, **settings)


def write(root: Path, text: str, name: str = "manifest.csv") -> None:
    (root / name).write_text(text, encoding="utf-8")


def records(source) -> list[ClipRecord]:
    return [source.record(position) for position in range(len(source))]


def test_a_csv_names_paths_labels_captions_ids_and_splits(root):
    write(root, 'path,kind,where,id,text,fold\na.wav,dog,park,007,"a dog, barking",1\nb.wav,,,008,,2\n')
    source = open_source(
        config(root, label_columns=["kind", "where"], clip_id_column="id", caption_column="text", split_column="fold")
    )
    assert records(source) == [
        ClipRecord("007", "a.wav", ("dog", "park"), ("a dog, barking",), "1"),
        ClipRecord("008", "b.wav", (), (), "2"),
    ]
    assert source.read([1])[0][0].clip_id == "008"


def test_the_path_is_the_id_where_no_column_is_named(root):
    write(root, "path,other\na.wav,x\nb.wav,y\n")
    assert records(open_source(config(root))) == [ClipRecord("a.wav", "a.wav"), ClipRecord("b.wav", "b.wav")]


def test_json_lines_hold_numbers_lists_dates_and_gaps(root):
    rows = [
        {"path": "a.wav", "id": "2020-01-01", "tags": ["dog", "park"], "text": ["one", "two"], "fold": 1},
        {"path": "b.wav", "id": "2020-01-02", "tags": "cat", "fold": 2},
    ]
    write(root, "\n".join(map(json.dumps, rows)) + "\n\n", "clips.jsonl")
    settings = {"label_columns": ["tags"], "clip_id_column": "id", "caption_column": "text", "split_column": "fold"}
    assert records(open_source(config(root, "clips.jsonl", **settings))) == [
        ClipRecord("2020-01-01", "a.wav", ("dog", "park"), ("one", "two"), "1"),
        ClipRecord("2020-01-02", "b.wav", ("cat",), (), "2"),
    ]


def test_parquet_and_tsv_read_the_same_as_csv(root):
    rows = [{"path": "a.wav", "kind": "dog", "fold": 1}, {"path": "b.wav", "kind": None, "fold": 2}]
    pq.write_table(pa.Table.from_pylist(rows), root / "clips.parquet")
    write(root, "path\tkind\tfold\na.wav\tdog\t1\nb.wav\t\t2\n", "clips.tsv")
    for name in ("clips.parquet", "clips.tsv"):
        assert records(open_source(config(root, name, label_columns=["kind"], split_column="fold"))) == [
            ClipRecord("a.wav", "a.wav", ("dog",), (), "1"),
            ClipRecord("b.wav", "b.wav", (), (), "2"),
        ]


def test_byte_order_marks_quoted_line_breaks_and_windows_line_ends_are_read(root):
    write(root, '\ufeffpath,text\r\na.wav,"two\nlines"\r\n')
    assert records(open_source(config(root, caption_column="text"))) == [
        ClipRecord("a.wav", "a.wav", (), ("two\nlines",))
    ]
    write(root, '\ufeff{"path": "a.wav"}\n', "clips.jsonl")
    assert len(open_source(config(root, "clips.jsonl"))) == 1


def test_paths_may_be_relative_to_a_folder_and_rows_chosen(tmp_path):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio/a.wav", 0.5 * np.ones(8_000), RATE)
    write(tmp_path, "filename,esc10,category\na.wav,True,dog\nb.wav,False,cat\n")
    source = open_source(
        config(
            tmp_path,
            path_column="filename",
            audio_dir="audio",
            keep_rows={"esc10": ["True"]},
            label_columns=["category"],
        )
    )
    assert records(source) == [ClipRecord("audio/a.wav", "audio/a.wav", ("dog",))]
    assert len(source.read([0])[0]) == 1
    with pytest.raises(DataError, match=r"keep_rows.esc10 keeps no row of .*: asked for 'yes', found 'False', 'True'"):
        open_source(config(tmp_path, path_column="filename", keep_rows={"esc10": ["yes"]}))


def test_a_path_out_of_the_root_is_quarantined_and_the_others_are_read(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret.wav"
    soundfile.write(elsewhere, 0.5 * np.ones(8_000), RATE)
    (root / "link.wav").symlink_to(elsewhere)
    write(root, f"path\n../{root.name}/a.wav\n../x.wav\n{elsewhere}\nlink.wav\nb.wav\n")
    clips, quarantined = open_source(config(root)).read(range(5))
    assert [clip.clip_id for clip in clips] == [f"../{root.name}/a.wav", "b.wav"]
    assert [(item.path, item.reason) for item in quarantined] == [
        (path, "path leads out of the root folder") for path in ("../x.wav", str(elsewhere), "link.wav")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "manifest.csv is empty"),
        ("path,fold\n", "manifest.csv holds no rows"),
        ("file,fold\na.wav,1\n", "has no column 'path'; columns there: file, fold"),
        ("path,path\na.wav,b.wav\n", "has 2 columns 'path': rename all but one"),
        ('path\n" "\n', r"row 1 \(line 2\): bad row: column 'path': expected text, found nothing but blanks"),
        ("path,fold\na.wav,1,2,3\n", r"row 1 \(line 2\): bad row: 4 cells, the header has 2: put cells .* in quotes"),
        ('path\n"a.wav\n', r"row 1 \(line 2\): bad row: it is not CSV: unexpected end of data; see .* quote is closed"),
    ],
)
def test_faults_of_a_csv_say_what_is_wrong(root, text, message):
    write(root, text)
    with pytest.raises(DataError, match=message):
        open_source(config(root))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "clips.jsonl holds no rows"),
        ('{"file": "a.wav"}\n{"other": 1}\n', "has no column 'path'; columns there: file, other"),
        ('{"path": \n', "bad row: it is not JSON"),
        ('["a.wav"]\n', r"row 1 \(line 1\): bad row: expected a JSON object, found a list of 1"),
        ('{"path": ""}\n\n{"id": 3}\n', r"row 1 \(line 1\): bad row: column 'path': .*nothing; 1 more cannot be used"),
    ],
)
def test_faults_of_json_lines_say_what_is_wrong(root, text, message):
    write(root, text, "clips.jsonl")
    with pytest.raises(DataError, match=message):
        open_source(config(root, "clips.jsonl"))


def test_missing_unknown_and_damaged_tables_are_named(root):
    write(root, "path\na.wav\n", "other.csv")
    with pytest.raises(DataError, match=r"there is no file .*manifest.csv; tables in that folder: other.csv"):
        open_source(config(root))
    with pytest.raises(DataError, match=r"there is no file .*\(nor a folder .*meta\)"):
        open_source(config(root, "meta/clips.csv"))
    with pytest.raises(DataError, match=r"must be a table of one of these kinds: .csv, .tsv, .jsonl, .parquet"):
        open_source(config(root, "a.wav"))
    (root / "bad.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="cannot be read as a PARQUET table"):
        open_source(config(root, "bad.parquet"))
    (root / "latin.csv").write_bytes("path\ncafé.wav\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"column 'path': expected text in UTF-8, found 'caf.*: save the file as UTF-8"):
        open_source(config(root, "latin.csv"))
    with pytest.raises(DataError, match="expected a folder at"):
        open_source(config(root / "nowhere"))


def test_splits_select_rows_by_the_values_of_a_column(root):
    write(root, "path,fold\na.wav,1\nb.wav,2\nc.wav,3\nd.wav,1\n")
    settings = config(root, split_column="fold", splits={"rl": ["1"], "heldout": ["2", "3"]})
    source = open_source(settings)
    rl, heldout = select_split(source, settings, Split.rl), select_split(source, settings, Split.heldout)
    assert [record.clip_id for record in records(rl)] == ["a.wav", "d.wav"]
    assert [clip.clip_id for clip in rl.read([1, 0])[0]] == ["d.wav", "a.wav"]
    assert [record.clip_id for record in records(heldout)] == ["b.wav", "c.wav"]
    with pytest.raises(
        DataError,
        match=r"no clip belongs to the split clap: .* asks for 'clap' in column 'fold', which holds '1', '2', '3'",
    ):
        select_split(source, settings, Split.clap)


def test_a_column_may_hold_the_names_of_the_splits(root):
    write(root, "path,part\na.wav,rl\nb.wav,heldout\n")
    settings = config(root, split_column="part")
    assert len(select_split(open_source(settings), settings, Split.rl)) == 1


def test_without_a_column_every_split_is_the_whole_source(root):
    write(root, "path\na.wav\nb.wav\n")
    settings = config(root)
    source = open_source(settings)
    assert all(len(select_split(source, settings, split)) == 2 for split in Split)


def test_a_view_quarantines_and_refuses_positions_like_its_source(root):
    write(root, "path\na.wav\ngone.wav\nb.wav\n")
    source = open_source(config(root))
    view = Subset(source, np.array([2, 1]))
    clips, quarantined = view.read([0, 1])
    assert clips[0].clip_id == "b.wav"
    assert quarantined[0].path == "gone.wav"
    assert view.record(1).path == "gone.wav"
    assert Subset(view, np.array([1])).record(0).path == "gone.wav"
    for position in (-1, 2):
        with pytest.raises(IndexError, match="position must lie in"):
            view.read([position])


def test_a_large_table_opens_fast_and_finds_its_duplicates(tmp_path):
    write(tmp_path, "path,kind\n" + "".join(f"clips/{number}.wav,dog\n" for number in range(50_000)))
    source = open_source(config(tmp_path, label_columns=["kind"]))
    assert source.record(49_999) == ClipRecord("clips/49999.wav", "clips/49999.wav", ("dog",))
    with (tmp_path / "manifest.csv").open("a") as file:
        file.write("clips/77.wav,cat\n")
    repeated = open_source(config(tmp_path, label_columns=["kind"]))
    assert len(repeated) == 50_000
    assert repeated.record(77).labels == ("dog", "cat")


@pytest.mark.skipif(not ESC10.is_dir(), reason="ESC-10 is not here")
def test_real_recordings_are_read_by_their_manifest():
    settings = config(ESC10, label_columns=["label"], split_column="fold", splits={"rl": ["3"]}, silence_dbfs=-100)
    source = open_source(settings)
    assert len(source) == 320
    rl = select_split(source, settings, Split.rl)
    assert len(rl) == 80
    clips, quarantined = rl.read(range(4))
    assert len(clips) == 4
    assert quarantined == []
    assert {record.split for record in records(rl)} == {"3"}
    assert len({record.labels for record in records(rl)}) == 10


def test_rows_of_one_clip_are_one_clip_and_ids_of_several_clips_are_none(root):
    text = (
        "path,id,text,fold\na.wav,a,one,1\na.wav,a,two,1\nb.wav,b,three,1\nc.wav,b,four,1\nd.wav,d,x,1\nd.wav,d,x,2\n"
    )
    write(root, text + "a.wav,e,five,1\n")
    source = open_source(config(root, clip_id_column="id", caption_column="text", split_column="fold"))
    assert records(source) == [
        ClipRecord("a", "a.wav", (), ("one", "two"), "1"),
        ClipRecord("e", "a.wav", (), ("five",), "1"),
    ]
    assert source.left_out.passed_over == {"rows that repeat a clip, whose captions and labels it keeps": 1}
    told = {bad.path: bad.reason for bad in source.left_out.quarantined}
    assert list(told) == ["b.wav", "c.wav", "d.wav"]
    assert "'b' stands 2 times, such as for b.wav and c.wav; give every clip an id of its own" in told["b.wav"]
    assert "'d' is in more than one split ('1', '2')" in told["d.wav"]


def test_an_id_column_that_names_no_clips_is_refused(root):
    write(root, "path,kind\na.wav,dog\nb.wav,dog\n")
    with pytest.raises(DataError, match=r"ambiguous clip id: 'dog' .* set data.clip_id_column to a column that does"):
        open_source(config(root, clip_id_column="kind"))
