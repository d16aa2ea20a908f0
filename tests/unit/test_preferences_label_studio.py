import json
from pathlib import Path

import pytest

from rlcap.errors import DataError
from rlcap.preferences.importing import ImportedPairs, import_pairs
from rlcap.preferences.pairs import PreferencePair

DATA = {"audio": "/data/upload/1/dog.wav", "text1": "a dog barks", "text2": "an animal"}


def annotation(selected: str | None, *, cancelled: bool = False, names: str = "text1,text2") -> dict[str, object]:
    result = [{"from_name": "pw", "to_name": names, "type": "pairwise", "value": {"selected": selected}}]
    return {"id": 1, "completed_by": 1, "result": result if selected else [], "was_cancelled": cancelled}


def exported(folder: Path, tasks: list[object]) -> ImportedPairs:
    (folder / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
    return import_pairs(folder / "export.json")


def test_each_annotator_has_a_vote_and_what_says_nothing_is_counted(tmp_path):
    tasks = [
        {"data": DATA, "annotations": [annotation("left"), annotation("left"), annotation("right")]},
        {"data": DATA | {"audio": "rain.wav"}, "annotations": [annotation("right", cancelled=True), annotation(None)]},
        {"data": DATA, "annotations": []},
    ]
    found = exported(tmp_path, tasks)
    assert found.pairs == [PreferencePair("dog.wav", "a dog barks", "an animal", (1, 1, -1))]
    assert found.quarantined == []
    assert found.passed_over == {
        "cancelled annotations": 1,
        "annotations without a choice": 1,
        "tasks nobody annotated": 1,
    }


@pytest.mark.parametrize(
    ("audio", "clip_id"),
    [
        ("dog.wav", "dog.wav"),
        ("/data/upload/12/ab12cd34-dog 1.wav", "dog 1.wav"),
        ("/data/upload/12/dog-barks.wav", "dog-barks.wav"),
        ("/data/local-files/?d=clips%2Fdog.wav", "clips/dog.wav"),
        ("s3://bucket/dog.wav", "s3://bucket/dog.wav"),
    ],
)
def test_a_clip_is_named_by_its_own_path_and_not_by_that_of_label_studio(tmp_path, audio, clip_id):
    found = exported(tmp_path, [{"data": DATA | {"audio": audio}, "annotations": [annotation("left")]}])
    assert [pair.clip_id for pair in found.pairs] == [clip_id]


def test_the_labels_name_the_captions_where_they_are_fields_of_the_task(tmp_path):
    data = {"audio": "a.wav", "clip_id": "a", "one": "x", "two": "y", "text1": "p", "text2": "q"}
    tasks = [
        {"data": data, "annotations": [annotation("right", names="one,two")]},
        {"data": data, "annotations": [annotation("left", names="txt-1,txt-2")]},
    ]
    assert exported(tmp_path, tasks).pairs == [
        PreferencePair("a", "x", "y", (-1,)),
        PreferencePair("a", "p", "q", (1,)),
    ]


def test_flat_exports_name_the_side_in_a_column_of_any_name(tmp_path):
    rows = [
        DATA | {"which is better": side, "id": number, "annotator": 3, "annotation_id": number}
        for number, side in enumerate(["left", "right", ""])
    ]
    found = exported(tmp_path, rows)
    assert found.pairs == [PreferencePair("dog.wav", "a dog barks", "an animal", (1, -1))]
    assert found.passed_over == {"annotations without a choice": 1}
    lines = ["audio,text1,text2,pw,annotation_id", "dog.wav,x,y,left,1", "dog.wav,x,y,right,2"]
    (tmp_path / "export.csv").write_text("\n".join(lines))
    assert import_pairs(tmp_path / "export.csv").pairs == [PreferencePair("dog.wav", "x", "y", (1, -1))]


def test_an_export_without_a_choice_says_what_was_passed_over(tmp_path):
    with pytest.raises(DataError, match=r"holds no preferences; passed over: cancelled annotations \(1\)"):
        exported(tmp_path, [{"data": DATA, "annotations": [annotation("left", cancelled=True)]}])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            {"data": {"audio": "a", "left": "x"}, "annotations": [annotation("left")]},
            "captions in text1 and text2, found",
        ),
        ({"data": DATA, "annotations": [{"result": None}]}, "expected an annotation with a result"),
        ({"data": DATA, "annotations": [{"result": annotation("left")["result"] * 2}]}, "one pairwise choice, found 2"),
        (
            {"data": DATA, "annotations": [annotation("middle")]},
            "expected left or right to be selected, found 'middle'",
        ),
    ],
)
def test_what_is_no_choice_of_two_captions_is_named(tmp_path, task, message):
    with pytest.raises(DataError, match=message):
        exported(tmp_path, [task])
