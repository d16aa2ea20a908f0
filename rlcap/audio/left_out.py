"""What opening a source leaves out: quarantined with a reason, or passed over and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from rlcap.errors import DataError
from rlcap.tables.rows import refuse_what_left_nothing
from rlcap.types import Quarantined


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What is no clip of a source, although it might have been one."""

    quarantined: tuple[Quarantined, ...] = ()
    """Rows, members and files that cannot be used."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """What is left alone by rule, such as hidden files: how often, by what it is."""

    def __add__(self, other: LeftOut) -> LeftOut:
        counts = Counter(self.passed_over) + Counter(other.passed_over)
        return LeftOut(self.quarantined + other.quarantined, dict(counts))

    def without(self, what: str) -> LeftOut:
        """The same, but for one thing passed over that is of no interest here."""
        return LeftOut(self.quarantined, {name: count for name, count in self.passed_over.items() if name != what})

    @classmethod
    def bad(cls, quarantined: Sequence[Quarantined]) -> LeftOut:
        """What cannot be used, and nothing passed over."""
        return cls(tuple(quarantined))

    def refuse_nothing_left(self, root: Path | str) -> NoReturn:
        """Refuse a source without a clip.

        Raises:
            DataError: names the first reason, or what was passed over.
        """
        refuse_what_left_nothing(str(root), self.quarantined)
        raise DataError(f"{root} holds no clips{self.counted('; passed over: ')}")

    def counted(self, before: str) -> str:
        """What was passed over, by number, behind these words; empty where nothing was."""
        if not self.passed_over:
            return ""
        return before + ", ".join(f"{what} ({count})" for what, count in self.passed_over.items())


NOTHING = LeftOut()
