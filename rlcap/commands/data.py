"""`rlcap data check`: reads every recording once, before a run has to."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING

from rlcap.commands.parsing import Commands, HelpFormatter, add_command, add_overrides
from rlcap.commands.terminal import FAULT, aligned, complain, say

if TYPE_CHECKING:
    from rlcap.audio.source import RecordedSource
    from rlcap.config.data import DataConfig, Split
    from rlcap.types import Quarantined

_DETAILS = """\
Decode every recording once, and say for each split how many can be used, how long they are, and what is known of
them. A run leaves out what cannot be used; this says so before it starts.

reads:
  the clips of data.root

writes:
  a table on the terminal; with --quarantine FILE, the path and reason of each recording that cannot be used, as CSV

The exit code is 1 where a split has no clip that can be used."""

_MORE = """\
examples:
  rlcap data check experiment=esc10 data.root=ESC-50
  rlcap data check data.kind=folder data.root=recordings --limit 500
  rlcap data check data.kind=clotho data.root=clotho --quarantine bad.csv

settings most often changed:
  data.kind                             folder, manifest, webdataset, parquet, clotho, audiocaps
  data.root                             folder of the recordings
  data.split_column, data.splits        which rows belong to which split
  data.max_duration_s                   longer recordings are left out"""


def register(commands: Commands) -> None:
    """Add the command and its action."""
    data = commands.add_parser(
        "data", help="check recordings", description=_DETAILS, epilog=_MORE, formatter_class=HelpFormatter
    )
    actions = data.add_subparsers(title="actions", metavar="<action>", required=True)
    check = add_command(actions, "check", _run, summary="read every recording once", details=_DETAILS, more=_MORE)
    check.add_argument("--limit", type=int, metavar="N", help="decode N recordings, evenly spread; default: all")
    check.add_argument("--quarantine", type=Path, metavar="FILE", help="CSV file for what cannot be used")
    add_overrides(check)


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.audio.sources import open_source
    from rlcap.config.data import SourceKind
    from rlcap.config.load import load_config

    config = load_config(arguments.overrides).data
    if config.kind is SourceKind.soundscapes:
        say("Soundscapes are synthesised as they are asked for: there are no recordings to check.")
        return 0
    source = open_source(config)
    seconds, quarantined = _decode(source, arguments.limit)
    if arguments.quarantine:
        _write_quarantine(quarantined, arguments.quarantine)
    code = _say_splits(source, config, seconds)
    for bad in quarantined[:10]:
        complain(f"{bad.path}: {bad.reason}")
    if len(quarantined) > 10:
        complain(f"and {len(quarantined) - 10} more; --quarantine FILE lists them all")
    return code


def _decode(source: RecordedSource, limit: int | None) -> tuple[dict[str, float], list[Quarantined]]:
    """Read recordings one by one; return the duration of each usable one by clip id, and the others."""
    step = max(1, len(source) // limit) if limit else 1
    positions = range(0, len(source), step)[:limit]
    seconds: dict[str, float] = {}
    quarantined: list[Quarantined] = []
    for position in positions:
        clips, bad = source.read([position])
        seconds |= {clip.clip_id: len(clip.waveform) / clip.sample_rate_hz for clip in clips}
        quarantined += bad
    say(f"{len(positions)} of {len(source)} recordings decoded, {len(quarantined)} of them cannot be used\n")
    return seconds, quarantined


def _say_splits(source: RecordedSource, config: DataConfig, seconds: dict[str, float]) -> int:
    """Write a line for each split; return the exit code."""
    from rlcap.audio.subset import select_split
    from rlcap.config.data import Split
    from rlcap.errors import DataError

    rows: list[tuple[str, ...]] = [("split", "clips", "usable", "minutes", "with labels", "with captions")]
    faults = []
    for split in Split:
        try:
            rows.append(_split_row(split, select_split(source, config, split), seconds))
        except DataError as error:
            faults.append(str(error))
    say(aligned(rows))
    faults += [f"no clip of the split {row[0]} can be used" for row in rows if row[2] == "0"]
    for fault in faults:
        complain(fault)
    return FAULT if faults else 0


def _split_row(split: Split, source: RecordedSource, seconds: dict[str, float]) -> tuple[str, ...]:
    records = [source.record(position) for position in range(len(source))]
    usable = [seconds[record.clip_id] for record in records if record.clip_id in seconds]
    labelled = sum(bool(record.labels) for record in records)
    captioned = sum(bool(record.captions) for record in records)
    counts = (len(records), len(usable), round(sum(usable) / 60, 1), labelled, captioned)
    return split.value, *map(str, counts)


def _write_quarantine(quarantined: list[Quarantined], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "reason"))
        writer.writerows((bad.path, bad.reason) for bad in quarantined)
