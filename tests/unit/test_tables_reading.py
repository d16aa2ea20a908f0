import csv
import io
import json
import math
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlcap.errors import DataError
from rlcap.tables import json_values
from rlcap.tables.json_values import read_json_object, read_number
from rlcap.tables.reading import read_rows
from rlcap.tables.rows import Unreadable

ROWS = [["dog.wav", "a dog barks, then rain; falls"], ["rain.wav", 'rain | "wind"']]
TEXT = "path,text\r\n" + "".join(f'{path},"{text.replace(chr(34), chr(34) * 2)}"\r\n' for path, text in ROWS)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cells(path: Path, **columns: object) -> list[list[object]]:
    return [list(row.cells.values()) for row in read_rows(path, ["path"], **{"optional": None, **columns})]


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-be").join([b"\xfe\xff", b""]),
        TEXT.encode("utf-8-sig").decode().encode("utf-16"),
        TEXT.encode("utf-32"),
        TEXT.replace("\r\n", "\n").rstrip("\n").encode(),
        TEXT.replace("\r\n", "\r").encode(),
        ("\n\n" + TEXT).encode(),
        TEXT.replace("\r\n", ",,\r\n").encode(),
        (TEXT + ",\r\n").encode(),
        TEXT.replace(',"', ';"').replace("path,", "path;").encode("utf-8-sig"),
        ("sep=;\r\n" + TEXT.replace(',"', ';"').replace("path,", "path;")).encode(),
        TEXT.replace(',"', '\t"').replace("path,", "path\t").encode("utf-16"),
        TEXT.replace(',"', '|"').replace("path,", "path|").encode(),
    ],
)
def test_csv_is_read_as_spreadsheets_of_any_language_save_it(tmp_path, content):
    assert cells(write(tmp_path / "t.csv", content)) == ROWS


@pytest.mark.parametrize(
    ("text", "where", "broken"),
    [
        (
            "path,text\na,b\na,b,c\n",
            "row 2 (line 3)",
            "3 cells, the header has 2: put cells that hold a comma in quotes",
        ),
        ("path;text\na;b\na;b;c\n", "row 2 (line 3)", "put cells that hold a semicolon in quotes"),
        ("path,text\na,b\nc\n", "row 2 (line 3)", "1 cell, the header has 2: a line break within a cell must stand in"),
        (
            'path,text\na,b\nc,"d\ne\n',
            "row 2 (lines 3 to 4)",
            "not CSV: unexpected end of data; see whether each quote",
        ),
        ('path,text\na,b\nc,"d"e\n', "row 2 (line 3)", "not CSV: ',' expected after '\"'"),
        (f"path,text\na,b\nc,{'x' * 200_000}\n", "row 2 (line 3)", "not CSV: field larger than field limit"),
    ],
)
def test_a_row_that_is_none_is_told_by_its_lines_and_the_next_is_read(tmp_path, text, where, broken):
    rows = list(read_rows(write(tmp_path / "t.csv", text), ["path"]))
    assert [row.broken for row in rows[:1]] == [""]
    assert rows[1].where == where
    assert broken in rows[1].broken


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"\n\n", "is empty"),
        ("t.csv", b"path\n\n", "holds no rows"),
        ("t.csv", b"file,text\na,b\n", "has no column 'path'; columns there: file, text"),
        ("t.csv", b"path,text,path\na,b,c\n", "has 2 columns 'path'"),
        ("t.csv", "path\na\n".encode("utf-16-le"), "its first line holds zero bytes: save it as UTF-8"),
        ("t.csv", b"\xff\xfepath\n", "cannot be read as UTF-16"),
        ("t.jsonl", b"\n", "holds no rows"),
        ("t.jsonl", b'{"file": 1}\n', "has no column 'path'; columns there: file"),
        ("t.parquet", b"PAR1", "cannot be read as a PARQUET table"),
        ("t.txt", b"", "must be a table of one of these kinds: .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_a_table_whose_structure_is_broken_is_refused_in_words(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        list(read_rows(write(tmp_path / name, content), ["path"]))


@pytest.mark.parametrize(
    ("line", "broken"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"path": ' + "9" * 5_000 + "}", "it is not JSON: Exceeds the limit"),
        ("7", "expected a JSON object, found the number 7"),
        ('{"path"', "it is not JSON"),
        ("\udcff", "it is not JSON"),
    ],
)
def test_a_line_that_is_no_object_is_told_and_the_next_is_read(tmp_path, line, broken):
    content = f'{line}\n\n{{"path": "a"}}\n'.encode(errors="surrogateescape")
    rows = list(read_rows(write(tmp_path / "t.jsonl", content), ["path"]))
    assert (rows[0].where, rows[1].where) == ("row 1 (line 1)", "row 2 (line 3)")
    assert broken in rows[0].broken
    assert rows[1].cells == {"path": "a"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_is_read_in_any_encoding_that_its_mark_names(tmp_path, encoding):
    write(tmp_path / "t.jsonl", '{"path": "café"}\n'.encode(encoding))
    assert cells(tmp_path / "t.jsonl") == [["café"]]
    assert read_json_object(tmp_path / "t.jsonl") == {"path": "café"}


def test_lines_beyond_any_sense_are_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_values, "MAX_LINE_CHARACTERS", 64)
    content = '{"path": "' + "x" * 1_000 + '"}\n{"path": "a"}\n'
    rows = list(read_rows(write(tmp_path / "t.jsonl", content), ["path"]))
    assert [bool(row.broken) for row in rows] == [True, False]


def test_parquet_cells_of_foreign_types_are_told_and_bytes_not_read(tmp_path):
    table = pa.table(
        {
            "path": pa.array(["a"], pa.dictionary(pa.int8(), pa.string())),
            "when": pa.array([0], pa.timestamp("s")),
            "audio": pa.array([{"bytes": b"x" * 1_000, "path": "a.wav"}]),
            "raw": pa.array([b"x"]),
            "pairs": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "nested": pa.array([[{"role": "assistant", "content": "x"}]]),
            "half": pa.array([1.0], pa.float16()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    (row,) = read_rows(tmp_path / "t.parquet", ["path"], optional=None)
    assert row.cells == {
        "path": "a",
        "when": Unreadable("a value of type timestamp[ms]"),
        "audio": {"path": "a.wav"},
        "pairs": Unreadable("a value of type map<string, int64 ('pairs')>"),
        "nested": [{"role": "assistant", "content": "x"}],
        "half": Unreadable("a value of type halffloat"),
    }


def test_text_in_parquet_that_is_not_utf8_spoils_its_own_row_alone(tmp_path):
    texts = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"ok"]).buffers())
    pq.write_table(pa.table({"path": texts}), tmp_path / "t.parquet")
    assert cells(tmp_path / "t.parquet") == [[Unreadable("text that is not UTF-8")], ["ok"]]


NAMES = st.text(st.characters(categories=["L", "N"], max_codepoint=0x2FF), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(NAMES, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))), min_size=1
    ),
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_what_the_csv_module_writes_is_read_back(tmp_path, rows, delimiter, encoding):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows([("path", "text"), *rows])
    path = write(tmp_path / "t.csv", text.getvalue().encode(encoding))
    assert cells(path) == [list(row) for row in rows]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), ending=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))
def test_no_bytes_raise_anything_but_a_sentence(tmp_path, content, ending):
    path = write(tmp_path / f"t{ending}", content)
    try:
        rows = list(read_rows(path, ["path"]))
    except DataError as error:
        str(error).encode(errors="strict")
    else:
        assert all(row.broken or "path" in row.cells or ending == ".jsonl" for row in rows)


@pytest.mark.parametrize("value", [None, True, "0.5", [0.5], math.nan, math.inf, 10**400])
def test_a_figure_that_is_read_back_is_a_finite_number(tmp_path, value):
    path = write(tmp_path / "metrics.json", json.dumps({"accuracy": value}))
    with pytest.raises(DataError, match="column 'accuracy': expected a finite number, found"):
        read_number(path, "accuracy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must hold a JSON object, found a list of 0"),
        ("{", "cannot be read as JSON"),
        ("[" * sys.getrecursionlimit() * 10, "nested too deeply"),
        (b"\xff", "cannot be read as JSON: 'utf-8' codec"),
    ],
)
def test_json_that_is_no_object_is_refused_in_words(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_json_object(write(tmp_path / "summary.json", content))
