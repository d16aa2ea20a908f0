import pytest

from rlcap.whole_file import whole_file


def test_a_file_appears_whole_and_takes_the_place_of_the_earlier_one(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text("earlier")
    with whole_file(path) as fresh:
        fresh.write_text("half")
        assert path.read_text() == "earlier"
        fresh.write_text("whole")
    assert path.read_text() == "whole"
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]


def test_a_block_that_raises_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text("earlier")

    def write_half():
        with whole_file(path) as fresh:
            fresh.write_text("half")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_half()
    assert path.read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]
