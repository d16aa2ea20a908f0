"""Preference pairs: two captions of one clip and the votes on them, by people or simulated annotators alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlcap.errors import DataError, RowError
from rlcap.tables.parquet_rows import parquet_rows
from rlcap.tables.rows import Row, described, refuse_what_left_nothing, shown, sift, whole_number
from rlcap.types import Quarantined

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("caption_a", pa.string(), nullable=False),
        pa.field("caption_b", pa.string(), nullable=False),
        pa.field("votes", pa.list_(pa.int8()), nullable=False),
        pa.field("source_a", pa.string(), nullable=False),
        pa.field("source_b", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two captions of one clip, and one vote of each annotator. Raises ValueError where there is no vote."""

    clip_id: str
    caption_a: str
    caption_b: str
    votes: tuple[int, ...]
    """1 for A, -1 for B, 0 for no preference; at least one."""
    source_a: str = ""
    """Who or what wrote caption A."""
    source_b: str = ""
    """Who or what wrote caption B."""
    category: str = ""
    """Kind of comparison, such as "human against machine"."""

    def __post_init__(self) -> None:
        if not self.votes or not set(self.votes) <= {-1, 0, 1}:
            raise ValueError(f"votes must be one or more of 1 (A), -1 (B) and 0 (tie), got {self.votes}")

    @property
    def share_for_a(self) -> float:
        """Share of the votes for A, a tie counting half."""
        return (1 + sum(self.votes) / len(self.votes)) / 2

    @property
    def majority(self) -> int:
        """1 where A has more votes than B, -1 where B has, 0 where they are level."""
        balance = sum(self.votes)
        return (balance > 0) - (balance < 0)

    def swapped(self) -> PreferencePair:
        """The same judgement with A and B exchanged."""
        votes = tuple(-vote for vote in self.votes)
        return PreferencePair(
            self.clip_id, self.caption_b, self.caption_a, votes, self.source_b, self.source_a, self.category
        )


def write_pairs(pairs: Iterable[PreferencePair], path: Path) -> None:
    """Write pairs as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([asdict(pair) for pair in pairs], schema=SCHEMA), path)


@dataclass(frozen=True, slots=True)
class StoredPairs:
    """The pairs of a file that `write_pairs` wrote, or somebody else in its layout."""

    pairs: list[PreferencePair]
    quarantined: list[Quarantined]
    """Rows that cannot be used."""


def sift_pairs(path: Path) -> StoredPairs:
    """Read pairs as they are stored; rows that cannot be used are left out.

    Raises:
        DataError: the file is missing, damaged or lacks a column, or none of its rows can be used.
    """
    if path.is_dir() or not path.exists():
        raise DataError(f"the preference pairs in {path} cannot be read: expected a Parquet file there")
    try:
        sifted = sift(parquet_rows(path, SCHEMA.names, ()), _stored_pair, path.name)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"the preference pairs in {path} cannot be read: {error}") from error
    except DataError as error:
        raise DataError(f"{error}; turn other layouts into preference pairs with `rlcap prefs import`") from error
    if not sifted.values:
        refuse_what_left_nothing(str(path), sifted.quarantined)
    return StoredPairs(sifted.values, sifted.quarantined)


def read_pairs(path: Path) -> list[PreferencePair]:
    """Read what `write_pairs` wrote. Raises DataError that names the missing column or the row at fault."""
    stored = sift_pairs(path)
    for bad in stored.quarantined:
        raise DataError(f"{bad.path}: {bad.reason}")
    return stored.pairs


def randomise_order(pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair]:
    """Exchange A and B in about half of the pairs, where the order of a file gives the better caption away."""
    exchanged = np.random.default_rng(seed).random(len(pairs)) < 0.5
    return [pair.swapped() if exchange else pair for pair, exchange in zip(pairs, exchanged, strict=True)]


def _stored_pair(row: Row) -> PreferencePair:
    """Read one row; a captioner may have said nothing, so captions may be empty. Raises RowError."""
    votes = row.cells["votes"]
    numbers = [whole_number(vote) for vote in votes] if isinstance(votes, list) else []
    if not numbers or any(vote not in (1, 0, -1) for vote in numbers):
        raise RowError(
            f"column 'votes': votes must be one or more of 1 (A), -1 (B) and 0 (tie), found {_votes_in_words(votes)}"
        )
    return PreferencePair(
        row.text("clip_id"),
        row.blank_or_text("caption_a"),
        row.blank_or_text("caption_b"),
        tuple(vote for vote in numbers if vote is not None),
        row.text_or_empty("source_a"),
        row.text_or_empty("source_b"),
        row.text_or_empty("category"),
    )


def _votes_in_words(votes: object) -> str:
    return shown(votes) if isinstance(votes, list) else described(votes)
