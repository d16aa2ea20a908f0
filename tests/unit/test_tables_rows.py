import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcap.errors import DataError, RowError
from rlcap.tables.rows import Row, Unreadable, described, refuse_what_left_nothing, sift
from rlcap.types import Quarantined

NOT_TEXT = [True, 7, 1.5, ["a"], {"a": 1}, Unreadable("a date"), "a\0b", "caf\udce9"]
NOTHING = [None, math.nan, "", " \n"]
CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.characters(categories=["Cs"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def row(value: object) -> Row:
    return Row(3, "row 3 (line 4)", {"x": value})


@pytest.mark.parametrize("value", [*NOT_TEXT, *NOTHING])
def test_text_is_text_or_refused_by_its_column(value):
    with pytest.raises(RowError, match="column 'x': expected text"):
        row(value).text("x")


@pytest.mark.parametrize("value", NOTHING)
def test_nothing_is_nothing_where_a_cell_may_be_empty(value):
    assert row(value).text_or_empty("x") == row(value).word("x") == ""
    assert row(value).texts(["x"]) == []
    assert row([value]).texts(["x"]) == []


def test_words_are_text_whole_numbers_and_booleans():
    found = [row(value).word("x") for value in ("1", 1, 1.0, True, False, 10**30)]
    assert found == ["1", "1", "1", "True", "False", str(10**30)]
    for value in (1.5, math.inf, ["1"], {}, Unreadable("a date")):
        with pytest.raises(RowError, match="expected text"):
            row(value).word("x")


def test_a_caption_may_be_blank_but_not_missing():
    assert row("").blank_or_text("x") == ""
    for value in (None, math.nan, 0, []):
        with pytest.raises(RowError, match="expected text, found"):
            row(value).blank_or_text("x")


def test_a_message_says_what_is_there_and_stays_short():
    assert [described(value) for value in (None, math.nan, True, 7, [1, 2], {"a": 1})] == [
        "nothing",
        "NaN",
        "the boolean true",
        "the number 7; write it as text, in quotes",
        "a list of 2",
        "a structure of 'a'",
    ]
    assert len(described("x" * 10_000)) < 100
    assert len(described(10**4_000)) < 100


@given(CELLS)
def test_whatever_a_cell_holds_is_read_unchanged_or_refused_in_words_that_can_be_written(value):
    for read in (Row.text, Row.text_or_empty, Row.blank_or_text, Row.word):
        try:
            found = read(row(value), "x")
        except RowError as error:
            str(error)[:300].encode()
        else:
            found.encode()
            assert found == value or not isinstance(value, str) or not value.strip()
    try:
        found = row(value).texts(["x"])
    except RowError as error:
        str(error).encode()
    else:
        assert found == [
            text for text in (value if isinstance(value, list) else [value]) if text and text == text and text.strip()
        ]


def test_sifted_rows_are_read_or_quarantined_by_their_place():
    rows = [row("a"), row(7), Row(4, "row 4", {}, "no row")]
    found = sift(rows, lambda one: one.text("x"), "t.csv")
    assert found.values == ["a"]
    assert found.quarantined == [
        Quarantined("t.csv, row 3 (line 4)", f"bad row: column 'x': expected text, found {described(7)}"),
        Quarantined("t.csv, row 4", "bad row: no row"),
    ]


def test_a_source_of_which_nothing_is_left_names_the_first_reason():
    refuse_what_left_nothing("t.csv", [])
    bad = [Quarantined("t.csv, row 1", "bad row: why"), Quarantined("t.csv, row 2", "other")]
    with pytest.raises(DataError, match=r"nothing that can be used: t.csv, row 1: bad row: why; 1 more cannot be used"):
        refuse_what_left_nothing("t.csv", bad)
