import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcap.errors import DataError
from rlcap.preferences.pairs import PreferencePair, randomise_order, read_pairs, write_pairs

PAIR = PreferencePair("a", "a dog barks", "a cat meows", (1, 1, 0, -1), "human", "baseline", "HM")


def test_what_was_written_is_read(tmp_path):
    pairs = [PAIR, PreferencePair("b", "x", "y", (0,))]
    write_pairs(pairs, tmp_path / "deep" / "pairs.parquet")
    assert read_pairs(tmp_path / "deep" / "pairs.parquet") == pairs


def test_ties_count_half_and_the_majority_needs_more_votes():
    assert PAIR.share_for_a == 0.625
    assert PAIR.majority == 1
    assert PAIR.swapped().majority == -1
    assert PreferencePair("a", "x", "y", (1, -1)).majority == 0


def test_exchanging_twice_gives_the_pair_back():
    assert PAIR.swapped().swapped() == PAIR
    assert PAIR.swapped().source_a == "baseline"


@pytest.mark.parametrize("votes", [(), (2,), (1, 3)])
def test_votes_that_mean_nothing_are_refused(votes):
    with pytest.raises(ValueError, match="votes must be"):
        PreferencePair("a", "x", "y", votes)


def test_a_file_of_another_layout_names_what_it_lacks(tmp_path):
    pq.write_table(pa.table({"clip_id": ["a"], "chosen": ["x"]}), tmp_path / "p.parquet")
    with pytest.raises(
        DataError, match="has no column 'caption_a'; columns there: clip_id, chosen; turn other layouts into"
    ):
        read_pairs(tmp_path / "p.parquet")


def test_a_row_that_is_no_preference_is_named(tmp_path):
    write_pairs([PAIR], tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet")
    votes = pa.array([[7]], type=pa.list_(pa.int8()))
    pq.write_table(table.set_column(table.column_names.index("votes"), "votes", votes), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="row 1: bad row: column 'votes': votes must be"):
        read_pairs(tmp_path / "p.parquet")


def test_a_file_that_is_not_parquet_is_explained(tmp_path):
    (tmp_path / "p.parquet").write_text("clip_id", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path / "p.parquet")


def test_random_order_exchanges_about_half_and_keeps_every_judgement():
    pairs = [PreferencePair(str(i), "better", "worse", (1, 1)) for i in range(400)]
    mixed = randomise_order(pairs, seed=0)
    swapped = [new != old for new, old in zip(mixed, pairs, strict=True)]
    assert 150 < sum(swapped) < 250
    assert all((pair.majority == 1) == (pair.caption_a == "better") for pair in mixed)
    assert randomise_order(pairs, seed=0) == mixed
    assert randomise_order(pairs, seed=1) != mixed
