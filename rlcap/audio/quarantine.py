"""The files that could not be used, each once, where the user can read them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlcap.errors import DataError
from rlcap.tables.delimited import delimited_rows
from rlcap.tables.rows import Row, sift
from rlcap.types import Quarantined
from rlcap.whole_file import whole_file

_COLUMNS = ["path", "reason"]
_SPELT_OUT = "backslashreplace"
"""What becomes of bytes in names that are not UTF-8."""


class QuarantineList:
    """Quarantined files in the order they were met, the first reason of each."""

    def __init__(self, items: Iterable[Quarantined] = ()) -> None:
        self._reasons: dict[str, str] = {}
        self.add(items)

    @classmethod
    def load(cls, path: Path) -> QuarantineList:
        """Read what `save` wrote, to go on with it; a file that is not there yet is an empty list.

        Raises:
            DataError: the file is not such a list.
        """
        if not path.exists():
            return cls()
        try:
            sifted = sift(delimited_rows(path, _COLUMNS, ()), _quarantined, path.name)
        except (DataError, OSError) as error:
            raise DataError(f"{path} is no quarantine list: {error}") from error
        for bad in sifted.quarantined:
            raise DataError(f"{path} is no whole quarantine list: {bad.path}: {bad.reason}; move it away")
        return cls(sifted.values)

    def __len__(self) -> int:
        return len(self._reasons)

    def __iter__(self) -> Iterator[Quarantined]:
        return (Quarantined(path, reason) for path, reason in self._reasons.items())

    def add(self, items: Iterable[Quarantined]) -> int:
        """Add those that are not there yet, and return how many these were."""
        before = len(self._reasons)
        for item in items:
            self._reasons.setdefault(item.path, item.reason)
        return len(self._reasons) - before

    def counts_by_reason(self) -> dict[str, int]:
        """Count by kind of reason, which is what stands in front of its colon; the most frequent first."""
        return dict(Counter(reason.partition(":")[0] for reason in self._reasons.values()).most_common())

    def save(self, path: Path) -> None:
        """Write all of them as CSV (`path`, `reason`), in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            whole_file(path) as fresh,
            fresh.open("w", encoding="utf-8", errors=_SPELT_OUT, newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            writer.writerows(self._reasons.items())


def _quarantined(row: Row) -> Quarantined:
    return Quarantined(row.text("path"), row.text("reason"))
