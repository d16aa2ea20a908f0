"""Which reward model scored which updates of a run, and copies of those that came in while it went on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rlcap.errors import DataError
from rlcap.run_directory import RunDirectory
from rlcap.tables.json_values import read_json_rows
from rlcap.tables.rows import Row, sift
from rlcap.whole_file import whole_file


@dataclass(frozen=True, slots=True)
class RewardEntry:
    """One reward model's time."""

    version: str
    from_update: int
    """The first update that it scored."""
    path: str
    """Its folder, relative to the run directory where it lies in there."""


class RewardHistory:
    """Appends to `reward_history.json`; the last entry is what scores now."""

    def __init__(self, run: RunDirectory, first: RewardEntry) -> None:
        self._run = run
        self._entries = read_history(run) or [first]
        if self._entries[-1].version != first.version:  # the settings name another model since the run was stopped
            self._entries.append(first)
        self._save()

    @property
    def entries(self) -> tuple[RewardEntry, ...]:
        """All so far, in order."""
        return tuple(self._entries)

    def continue_after(self, update: int) -> None:
        """A run that goes on from an earlier update has the last model score from there on."""
        self._entries = [entry for entry in self._entries[:-1] if entry.from_update <= update] + [
            replace(self._entries[-1], from_update=min(self._entries[-1].from_update, update + 1))
        ]
        self._save()

    def add(self, entry: RewardEntry) -> None:
        """Note that a model scores from an update on; one that scored nothing makes way."""
        self._entries = [*(earlier for earlier in self._entries if earlier.from_update < entry.from_update), entry]
        self._save()

    def number_at(self, update: int) -> int:
        """Number of the entry that scored an update."""
        return sum(entry.from_update <= update for entry in self._entries) - 1

    def _save(self) -> None:
        self._run.check_lease()
        text = json.dumps([asdict(entry) for entry in self._entries], indent=2) + "\n"
        with whole_file(self._run.reward_history) as fresh:
            fresh.write_text(text, encoding="utf-8")


def read_history(run: RunDirectory) -> list[RewardEntry]:
    """Return the entries on disk; none before the first update of a run. Raises DataError where they are damaged."""
    if not run.reward_history.exists():
        return []
    sifted = sift(read_json_rows(run.reward_history), _entry, run.reward_history.name)
    for bad in sifted.quarantined:
        raise DataError(f"{bad.path} of {run.path} cannot be used: {bad.reason}")
    return sifted.values


def _entry(row: Row) -> RewardEntry:
    return RewardEntry(row.text("version"), row.whole("from_update"), row.text("path"))


def last_reward(run: RunDirectory) -> Path | None:
    """The folder of the model that scored last; None where the run has no history."""
    entries = read_history(run)
    return run.path / entries[-1].path if entries else None
