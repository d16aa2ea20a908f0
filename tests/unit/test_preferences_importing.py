import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcap.audio.quarantine import QuarantineList
from rlcap.commands.main import run
from rlcap.errors import DataError
from rlcap.preferences.agreement import summarise_pairs
from rlcap.preferences.importing import import_pairs
from rlcap.preferences.pairs import PreferencePair, read_pairs, write_pairs

ROW = {"clip_id": "a", "caption_a": "a dog barks", "caption_b": "a cat meows"}


def test_every_kind_of_table_gives_the_same_pairs(tmp_path: Path):
    rows = [ROW | {"votes": [1, -1, 0], "category": "HM"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    (tmp_path / "t.csv").write_text(
        "clip_id,caption_a,caption_b,votes,category\na,a dog barks,a cat meows,1 -1 0,HM\n", encoding="utf-8"
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    expected = [PreferencePair("a", "a dog barks", "a cat meows", (1, -1, 0), category="HM")]
    for name in ("t.jsonl", "t.csv", "t.parquet"):
        assert import_pairs(tmp_path / name).pairs == expected


def test_chosen_and_rejected_captions_are_a_vote_for_the_chosen_one(tmp_path: Path):
    (tmp_path / "t.csv").write_text("audio,chosen,rejected\na.wav,a dog barks,a cat meows\n", encoding="utf-8")
    assert import_pairs(tmp_path / "t.csv").pairs == [PreferencePair("a.wav", "a dog barks", "a cat meows", (1,))]
    (tmp_path / "t.jsonl").write_text(json.dumps({"clip_id": "a", "chosen": "x", "rejected": "y", "votes": [1, 0]}))
    assert import_pairs(tmp_path / "t.jsonl").pairs == [PreferencePair("a", "x", "y", (1, 0))]


def test_what_was_imported_can_be_written_and_read(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text(json.dumps(ROW | {"preferred": "b"}), encoding="utf-8")
    pairs = import_pairs(tmp_path / "t.jsonl").pairs
    write_pairs(pairs, tmp_path / "pairs.parquet")
    assert read_pairs(tmp_path / "pairs.parquet") == import_pairs(tmp_path / "pairs.parquet").pairs == pairs


def test_rows_of_one_pair_are_votes_of_several_annotators(tmp_path: Path):
    rows = [ROW | {"preferred": word} for word in ("a", "B", "tie", 1)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (pair,) = import_pairs(tmp_path / "t.jsonl").pairs
    assert pair.votes == (1, -1, 0, 1)


def test_the_layout_of_fense_is_read(tmp_path: Path):
    clip = {
        "HC": ["x", "y", "human", "human", [1, 1, 1, 0]],
        "MM_1": ["p", "q", "fc", "rl", 0, [-1, 1, 1, 1]],
        "MM_2": None,
        "audio_id": "abc",
        "references": ["x"],
    }
    (tmp_path / "f.json").write_text(json.dumps([clip]), encoding="utf-8")
    assert import_pairs(tmp_path / "f.json").pairs == [
        PreferencePair("abc", "x", "y", (1, 1, 1, 0), "human", "human", "HC"),
        PreferencePair("abc", "p", "q", (-1, 1, 1, 1), "fc", "rl", "MM"),
    ]


def test_real_judgements_are_read_and_have_the_known_figures():
    path = Path("../shared/data/human_preferences/audiocaps_eval.json")
    if not path.is_file():
        pytest.skip("the human judgements of AudioCaps are not here")
    imported = import_pairs(path)
    pairs = imported.pairs
    assert not imported.quarantined
    assert {len(pair.clip_id) for pair in pairs} == {11}, "a video's id, as the clips of AudioCaps have it"
    found = summarise_pairs(pairs)
    assert (found.num_pairs, found.num_clips) == (1671, 394)
    assert found.share_first == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.txt", "", "preferences come as .json, .csv, .tsv, .jsonl, .parquet"),
        (
            "t.csv",
            "clip_id,caption_a\na,b\n",
            r"row 1 \(line 2\): bad row: column 'caption_b': expected text, found nothing",
        ),
        ("t.csv", "audio,chosen\na,b\n", "column 'rejected': expected text, found nothing"),
        ("t.jsonl", json.dumps(ROW), r"row 1 \(line 1\): bad row: give each vote as 1, -1 or 0"),
        ("t.jsonl", json.dumps(ROW | {"votes": [2]}), "column 'votes': give each vote .* found the number 2"),
        ("t.jsonl", json.dumps(ROW | {"preferred": "c"}), "column 'preferred': give each vote .* found 'c'"),
        ("t.jsonl", "[1]", "expected a JSON object, found a list of 1"),
        ("t.jsonl", "{", "it is not JSON"),
        ("t.csv", "clip_id,caption_a,caption_b\n", "holds no rows"),
        ("t.parquet", "PAR", "cannot be read"),
        ("f.json", "{}", "must hold a JSON list, of clips as FENSE has them"),
        ("f.json", '[{"HC": ["x", "y", "s", "t", [1]]}]', "clip 1: bad row: audio_id or raw_name must say which clip"),
        (
            "f.json",
            '[{"audio_id": "a", "HC": ["x", "y"]}]',
            "clip 1, HC: bad row: expected caption, caption, source, source and votes, found a list of 2",
        ),
        (
            "f.json",
            '[{"audio_id": "a", "HC": ["x", "y", "s", "t", [7]]}]',
            "clip 1, HC: bad row: column 'votes': give each vote",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_explained(name: str, text: str, message: str, tmp_path: Path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        import_pairs(tmp_path / name)


def test_a_missing_file_is_explained(tmp_path: Path):
    with pytest.raises(DataError, match="there is no file"):
        import_pairs(tmp_path / "none.csv")


def test_agreement_is_with_the_majority_of_the_others():
    def agreement(*votes: int) -> float | None:
        return summarise_pairs([PreferencePair("a", "x", "y", votes)]).agreement

    assert agreement(1, 1, 1) == 1
    assert agreement(1, 1, -1) == 0  # each of the two agreeing annotators faces a level rest
    assert agreement(1, 1, 1, -1) == 0.75
    assert agreement(1) is None
    assert agreement(0, 0) is None


def test_pairs_are_counted():
    pairs = [PreferencePair("a", "x", "y", (1, 1)), PreferencePair("a", "x", "z", (1, -1))]
    found = summarise_pairs(pairs)
    assert (found.num_pairs, found.num_clips, found.num_votes) == (2, 1, 4)
    assert (found.share_undecided, found.share_first) == (0.5, 1.0)
    with pytest.raises(ValueError, match="no pairs"):
        summarise_pairs([])


def test_the_assistants_last_message_is_the_caption(tmp_path: Path):
    asked = {"role": "user", "content": "Describe."}
    parts = [{"type": "audio", "audio_url": "a.wav"}, {"type": "text", "text": "an animal"}]
    row = {
        "audio": {"bytes": None, "path": "a.wav"},
        "prompt": [asked],
        "chosen": [asked, {"role": "assistant", "content": "a dog barks"}],
        "rejected": [{"role": "assistant", "content": parts}],
        "chosen_model": "human",
        "rejected_model": "baseline",
    }
    expected = [PreferencePair("a.wav", "a dog barks", "an animal", (1,), "human", "baseline")]
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    assert import_pairs(tmp_path / "t.jsonl").pairs == expected
    row["rejected"] = [{"role": "assistant", "content": "an animal"}]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "t.parquet")
    assert import_pairs(tmp_path / "t.parquet").pairs == expected


def test_json_that_holds_a_list_of_rows_or_lines_is_a_table(tmp_path: Path):
    expected = [PreferencePair("a", "a dog barks", "a cat meows", (1,))]
    for text in (json.dumps([ROW | {"votes": 1}]), json.dumps(ROW | {"preferred": "a"}) + "\n" + json.dumps(ROW)):
        (tmp_path / "t.json").write_text(text)
        assert import_pairs(tmp_path / "t.json").pairs == expected


def test_rows_that_cannot_be_used_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [ROW | {"votes": [1]}, ROW | {"votes": ["?"]}, ROW | {"caption_a": 7, "votes": [1]}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = [str(tmp_path / name) for name in ("t.jsonl", "out.parquet", "bad.csv")]
    assert run(["prefs", "import", *files[:2], "--quarantine", files[2]]) == 0
    told = capsys.readouterr()
    assert "out.parquet: 1 pairs of 1 clips\nLeft out: 2 rows that cannot be used.\n" in told.out
    assert "rlcap: t.jsonl, row 3 (line 3): bad row: column 'caption_a': expected text, found the number 7" in told.err
    assert [bad.path for bad in QuarantineList.load(tmp_path / "bad.csv")] == [
        "t.jsonl, row 2 (line 2)",
        "t.jsonl, row 3 (line 3)",
    ]


def test_a_table_of_other_columns_says_which_ones_are_read(tmp_path: Path):
    (tmp_path / "t.csv").write_text("id,better,worse\na,x,y\n")
    with pytest.raises(DataError, match=r"expected the columns clip_id, .*Label Studio.*rename .*found 'id', 'better'"):
        import_pairs(tmp_path / "t.csv")
