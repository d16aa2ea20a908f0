"""`rlcap caption`: captions for audio files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rlcap.commands.parsing import Commands, add_command
from rlcap.commands.terminal import FAULT, complain, say

_DETAILS = """\
Caption audio files with a tuned captioner, one line a file: the path, a tab, the caption.

reads:
  the last good checkpoint of the run (where it keeps none any more: its tuned captioner), its settings on the length
  of captions and clips, and the files (WAV, FLAC, OGG, MP3; any rate); or a captioner directory, with the default
  settings

Files that cannot be used are named on stderr with the reason; the exit code is then 1."""

_MORE = """\
examples:
  rlcap caption runs/latest dog.wav rain.flac
  rlcap caption --json runs/latest recordings/*.wav > captions.jsonl"""


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "caption", _run, summary="caption audio files", details=_DETAILS, more=_MORE)
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with keys path and caption")
    parser.add_argument("captioner", type=Path, metavar="RUN", help="run directory, or a captioner directory")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="audio files")


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.pipeline.caption_files import caption
    from rlcap.types import Quarantined

    code = 0
    for captioned in caption(arguments.captioner, arguments.files):
        if isinstance(captioned, Quarantined):
            complain(f"{captioned.path}: {captioned.reason}")
            code = FAULT
            continue
        path, text = captioned
        say(json.dumps({"path": str(path), "caption": text}) if arguments.json else f"{path}\t{text}")
    return code
