import unicodedata
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcap.config.data import Split
from rlcap.errors import DataError
from rlcap.pipeline.preference_pairs import read_given_pairs
from rlcap.preferences.pairs import PreferencePair, write_pairs

NFC, NFD = (unicodedata.normalize(form, "café.wav") for form in ("NFC", "NFD"))


def clips(*clip_ids: str) -> SimpleNamespace:
    return SimpleNamespace(clip_ids=clip_ids, split=Split.preference)


@pytest.mark.parametrize(("on_disk", "in_pairs"), [(NFC, NFD), (NFD, NFC), (NFC, NFC)])
def test_pairs_find_their_clips_by_either_unicode_form(tmp_path, capsys, on_disk, in_pairs):
    write_pairs([PreferencePair(in_pairs, "x", "y", (1,))], tmp_path / "p.parquet")
    (pair,) = read_given_pairs(tmp_path / "p.parquet", clips(on_disk, "other.wav"))
    assert pair.clip_id == on_disk
    told = "1 preference pairs name their clips in another Unicode form" in capsys.readouterr().err
    assert told == (on_disk != in_pairs)


def test_where_two_clips_differ_in_the_form_of_their_names_alone_none_is_guessed(tmp_path):
    write_pairs([PreferencePair(NFC, "x", "y", (1,)), PreferencePair(NFD, "p", "q", (1,))], tmp_path / "p.parquet")
    found = read_given_pairs(tmp_path / "p.parquet", clips(NFC, NFD))
    assert [pair.clip_id for pair in found] == [NFC, NFD]


def test_rows_that_cannot_be_used_are_announced_and_the_others_used(tmp_path, capsys):
    write_pairs([PreferencePair("a", "x", "y", (1,)), PreferencePair("b", "x", "y", (1,))], tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet")
    votes = pa.array([[1], [3]], pa.list_(pa.int8()))
    pq.write_table(table.set_column(table.column_names.index("votes"), "votes", votes), tmp_path / "p.parquet")
    assert [pair.clip_id for pair in read_given_pairs(tmp_path / "p.parquet", None)] == ["a"]
    told = " ".join(capsys.readouterr().err.split())
    assert "left out, the first: p.parquet, row 2: bad row: column 'votes': votes must be one or more of" in told


def test_columns_of_other_types_are_never_cast(tmp_path):
    row = {"clip_id": 7, "caption_a": "x", "caption_b": "y", "votes": [True], "source_a": "", "source_b": ""}
    pq.write_table(pa.Table.from_pylist([row | {"category": ""}]), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"row 1: bad row: column 'votes': votes must be .* found \[True\]"):
        read_given_pairs(tmp_path / "p.parquet", None)
