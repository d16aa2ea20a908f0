"""`rlcap data check`: reads every recording once, before a run has to."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rlcap.commands.parsing import Commands, add_actions, add_command, add_overrides
from rlcap.commands.terminal import FAULT, aligned, complain, complain_of, say

if TYPE_CHECKING:
    from rlcap.audio.inspection import Inspection
    from rlcap.audio.source import RecordedSource
    from rlcap.config.data import DataConfig

_LONG = 1000
_LOGGER = logging.getLogger(__name__)

_DETAILS = """\
Decode every recording once, and say what can be used, and what each split holds. A run leaves out what cannot be
used; this says so before it starts.

reads:
  the clips of data.root

writes:
  a table on the terminal; with --quarantine FILE, the path and reason of each recording that cannot be used, as CSV

The exit code is 1 where a split has no clip, or none that can be used."""

_MORE = """\
examples:
  rlcap data check experiment=esc10 data.root=recordings
  rlcap data check data.kind=folder data.root=recordings --limit 500
  rlcap data check data.kind=clotho data.root=clotho --quarantine bad.csv

settings most often changed:
  data.kind                             folder, manifest, webdataset, parquet, clotho, audiocaps
  data.root                             folder of the recordings
  data.split_column, data.splits        which rows belong to which split
  data.max_duration_s                   longer recordings are left out"""


def register(commands: Commands) -> None:
    """Add the command and its action."""
    actions = add_actions(commands, "data", summary="check recordings", details=_DETAILS, more=_MORE)
    check = add_command(actions, "check", _run, summary="read every recording once", details=_DETAILS, more=_MORE)
    check.add_argument("--limit", type=int, metavar="N", help="decode N recordings, evenly spread; default: all")
    check.add_argument("--quarantine", type=Path, metavar="FILE", help="CSV file for what cannot be used")
    add_overrides(check)


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.audio.inspection import inspect
    from rlcap.audio.quarantine import QuarantineList
    from rlcap.audio.sources import open_source
    from rlcap.config.data import SourceKind
    from rlcap.config.load import load_config
    from rlcap.writable import require_file

    config = load_config(arguments.overrides).data
    if config.kind is SourceKind.soundscapes:
        say("Soundscapes are synthesised as they are asked for: there are no recordings to check.")
        return 0
    if arguments.quarantine:
        require_file(arguments.quarantine, "--quarantine")
    source = open_source(config)
    inspection = inspect(_thinned(source, arguments.limit), _log_progress)
    everything = QuarantineList([*source.left_out.quarantined, *inspection.quarantine])
    if arguments.quarantine:
        everything.save(arguments.quarantine)
    say(_overview(inspection, source))
    code = _say_splits(source, config, {bad.path for bad in inspection.quarantine})
    complain_of(everything)
    return code


def _thinned(source: RecordedSource, limit: int | None) -> RecordedSource:
    """Return at most `limit` clips, evenly spread."""
    import numpy as np

    from rlcap.audio.subset import Subset

    if limit is None or limit >= len(source):
        return source
    return Subset(source, np.linspace(0, len(source) - 1, num=max(1, limit), dtype=np.int64))


def _log_progress(done: int, total: int) -> None:
    """Say so at each tenth of a source that takes long."""
    if total >= _LONG and done * 10 // total > (done - 1) * 10 // total:
        _LOGGER.info("%d of %d recordings decoded", done, total)


def _overview(inspection: Inspection, source: RecordedSource) -> str:
    from rlcap.audio.quarantine import QuarantineList

    num_clips, left_out = len(source), source.left_out
    decoded = f"{inspection.num_clips} of {num_clips}" if inspection.num_clips < num_clips else f"all {num_clips}"
    lines = [f"Decoded {decoded} recordings; {inspection.num_usable} can be used."]
    if inspection.num_usable:
        rates = ", ".join(f"{rate / 1000:g} kHz ({count})" for rate, count in inspection.sample_rates.items())
        span = f"{inspection.shortest_s:.1f} to {inspection.longest_s:.1f} s each"
        lines.append(f"They last {inspection.total_duration_s / 60:.1f} minutes, {span}; {rates}.")
    reasons = inspection.quarantine.counts_by_reason()
    if reasons:
        lines.append(f"The others: {_counted(reasons)}.")
    if left_out.quarantined:
        reasons = QuarantineList(left_out.quarantined).counts_by_reason()
        lines.append(f"No recordings, but left out besides: {_counted(reasons)}.")
    if left_out.passed_over:
        lines.append(f"Passed over: {_counted(left_out.passed_over)}.")
    return "\n".join(lines) + "\n"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{what} ({count})" for what, count in counts.items())


def _say_splits(source: RecordedSource, config: DataConfig, bad_paths: set[str]) -> int:
    """Write a line for each split; return the exit code."""
    from rlcap.audio.subset import select_split
    from rlcap.config.data import Split
    from rlcap.errors import DataError

    rows: list[tuple[str, ...]] = [("split", "clips", "not usable", "with labels", "with captions")]
    faults = []
    for split in Split:
        try:
            part = select_split(source, config, split)
        except DataError as error:
            faults.append(str(error))
            continue
        records = [part.record(position) for position in range(len(part))]
        num_bad = sum(record.path in bad_paths for record in records)
        num_labelled = sum(bool(record.labels) for record in records)
        num_captioned = sum(bool(record.captions) for record in records)
        rows.append((split.value, *map(str, (len(records), num_bad, num_labelled, num_captioned))))
        if num_bad == len(records):
            faults.append(f"no clip of the split {split.value} can be used")
    say(aligned(rows))
    for fault in faults:
        complain(fault)
    return FAULT if faults else 0
