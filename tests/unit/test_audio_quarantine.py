import pytest

from rlcap.audio.quarantine import QuarantineList
from rlcap.errors import DataError
from rlcap.types import Quarantined

ITEMS = [
    Quarantined("a, b.wav", "silent: peak -90 dBFS"),
    Quarantined("c.wav", "missing file"),
    Quarantined('"d"\n.wav', "silent: all samples are zero"),
]


def test_each_path_is_listed_once_with_its_first_reason():
    quarantine = QuarantineList()
    assert quarantine.add(ITEMS) == 3
    assert quarantine.add([Quarantined("c.wav", "another"), Quarantined("e.wav", "no samples")]) == 1
    assert list(quarantine) == [*ITEMS, Quarantined("e.wav", "no samples")]
    assert len(quarantine) == 4


def test_reasons_are_counted_by_kind_the_most_frequent_first():
    counts = QuarantineList([ITEMS[1], ITEMS[0], ITEMS[2]]).counts_by_reason()
    assert list(counts.items()) == [("silent", 2), ("missing file", 1)]


def test_the_list_survives_the_disk(tmp_path):
    path = tmp_path / "run/quarantine.csv"
    QuarantineList(ITEMS).save(path)
    assert path.read_text(encoding="utf-8").splitlines()[0] == "path,reason"
    again = QuarantineList.load(path)
    assert list(again) == ITEMS
    assert again.add(ITEMS) == 0
    again.save(path)
    assert list(QuarantineList.load(path)) == ITEMS
    assert [entry.name for entry in path.parent.iterdir()] == ["quarantine.csv"]


def test_a_list_that_is_not_there_yet_is_empty_and_a_foreign_file_is_refused(tmp_path):
    assert len(QuarantineList.load(tmp_path / "gone.csv")) == 0
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match="is no quarantine list"):
        QuarantineList.load(tmp_path / "other.csv")
