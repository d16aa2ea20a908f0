"""`rlcap check-captioner`: whether a captioner holds to what sampler and learner rely on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rlcap.commands.parsing import Commands, add_command
from rlcap.commands.terminal import FAULT, say

if TYPE_CHECKING:
    from rlcap.conformance.findings import CheckResult
    from rlcap.types import Clip

_DETAILS = """\
Check that a captioner holds to what sampler, learner and checkpoints rely on: that sampled log-probs are the
teacher-forced ones, that neither padding nor other clips change a result, that gradients, weights and files carry all
that is trained. Meant for captioner classes of your own; it takes those of every family.

reads:
  the captioner directory, loaded as actors load it, and computed in float32
  four synthetic clips of 0.1 to 5 s, or those of --audio

writes:
  a line for each check, and for those that failed what was expected, what came instead, and what to do; all of it to
  --json FILE

The exit code is 1 where a check failed."""

_MORE = """\
examples:
  rlcap check-captioner my-captioner
  rlcap check-captioner runs/latest/captioners/tuned --audio dog.wav rain.flac --json checks.json"""


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "check-captioner", _run, summary="check a captioner of your own", details=_DETAILS, more=_MORE
    )
    parser.add_argument("captioner", type=Path, metavar="PATH", help="captioner directory")
    parser.add_argument("--audio", type=Path, nargs="+", default=[], metavar="FILE", help="clips to check it on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all results")


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.captioners.loading import load_captioner
    from rlcap.conformance.check_captioner import check_one_by_one
    from rlcap.writable import require_file

    if arguments.json:
        require_file(arguments.json, "--json")
    captioner = load_captioner(arguments.captioner)
    results = []
    for result in check_one_by_one(captioner, _decode(arguments.audio)):
        say(_line(result))
        results.append(result)
    failed = [result for result in results if not result.passed]
    say(f"\n{len(results) - len(failed)} of {len(results)} checks passed by a captioner of family {captioner.family}.")
    if arguments.json:
        plain = {"captioner": str(arguments.captioner), "family": captioner.family, "passed": not failed}
        checks = [asdict(result) for result in results]
        arguments.json.write_text(json.dumps({**plain, "checks": checks}, indent=2) + "\n", encoding="utf-8")
    return FAULT if failed else 0


def _decode(files: Sequence[Path]) -> list[Clip]:
    """Read the clips. Raises DataError for the first that cannot be used."""
    from rlcap.audio.decoding import DecodeLimits, decode
    from rlcap.errors import ClipError, DataError

    clips = []
    for file in files:
        try:
            clips.append(decode(file, str(file), DecodeLimits()))
        except ClipError as fault:
            raise DataError(f"{file} cannot be used: {fault}") from fault
    return clips


def _line(result: CheckResult) -> str:
    if result.passed:
        return f"ok      {result.name}: {result.got}"
    facts = (("expected", result.expected), ("got", result.got), ("to do", result.remedy))
    return "\n".join([f"FAILED  {result.name}", *(f"        {what:<9} {text}" for what, text in facts)])
