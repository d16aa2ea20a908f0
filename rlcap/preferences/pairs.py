"""Preference pairs: two captions of one clip and the votes on them, by people or simulated annotators alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlcap.errors import DataError

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


def read_pairs(path: Path) -> list[PreferencePair]:
    """Read what `write_pairs` wrote. Raises DataError that names the missing column or the row at fault."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"the preference pairs in {path} cannot be read: {error}") from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise DataError(
            f"{path} lacks the columns {', '.join(missing)} of preference pairs; "
            "turn other layouts into this one with `rlcap prefs import`"
        )
    try:
        rows = table.select(SCHEMA.names).cast(SCHEMA).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise DataError(f"{path} holds columns of other types than preference pairs have: {error}") from error
    return [_from_row(row, number, path) for number, row in enumerate(rows, start=1)]


def randomise_order(pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair]:
    """Exchange A and B in about half of the pairs, where the order of a file gives the better caption away."""
    exchanged = np.random.default_rng(seed).random(len(pairs)) < 0.5
    return [pair.swapped() if exchange else pair for pair, exchange in zip(pairs, exchanged, strict=True)]


def _from_row(row: dict[str, object], number: int, path: Path) -> PreferencePair:
    try:
        return PreferencePair(**{**row, "votes": tuple(row["votes"])})  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}, row {number}: {error}") from error
