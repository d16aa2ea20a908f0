"""`rlcap caption`: captions for audio files."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from rlcap.commands.parsing import Commands, add_command
from rlcap.commands.terminal import FAULT, complain, say
from rlcap.errors import ConfigError

_DETAILS = """\
Caption audio files with a tuned captioner, one line a file: the path, a tab, the caption.

reads:
  the last good checkpoint of the run (where it keeps none any more: its tuned captioner), its settings on the length
  of captions and clips, and the files (WAV, FLAC, OGG, MP3; any rate); or a captioner directory, adapters of one
  included, with the default settings
  settings, such as data.max_duration_s=600 for longer clips

Files that cannot be used are named on stderr with the reason; the exit code is then 1."""

_MORE = """\
examples:
  rlcap caption runs/latest dog.wav rain.flac
  rlcap caption --json runs/latest recordings/*.wav > captions.jsonl
  rlcap caption audio-flamingo-3 concert.flac data.max_duration_s=600 sampling.max_new_tokens=128"""
_OPTIONS = ("--json", "--help", "-h")
_SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)+=.*", re.DOTALL)


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "caption", _run, summary="caption audio files", details=_DETAILS, more=_MORE)
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with keys path and caption")
    parser.add_argument("captioner", type=Path, metavar="RUN", help="run directory, or a captioner directory")
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files; key=value is a setting")


def with_dashed_files(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with files that begin with a dash as `./-name`, as ids of YouTube do; `--` may precede them.

    Two dashes begin an option, unless there is such a file.
    """
    if list(arguments[:1]) != ["caption"]:
        return list(arguments)
    before, after = list(arguments), []
    if "--" in before:
        after = before[before.index("--") + 1 :]
        before = before[: before.index("--")]
    return [*(_behind_dot(text) if _is_dashed_file(text) else text for text in before), *map(_behind_dot, after)]


def _behind_dot(text: str) -> str:
    return f"./{text}" if text[:1] == "-" else text


def _is_dashed_file(text: str) -> bool:
    return text[:1] == "-" and text not in _OPTIONS and (text[:2] != "--" or os.path.lexists(text))


def _run(arguments: argparse.Namespace) -> int:
    from rlcap.audio.files import spelt_out
    from rlcap.pipeline.caption_files import caption
    from rlcap.types import Quarantined

    settings = [text for text in arguments.files if _SETTING.fullmatch(text) and not os.path.lexists(text)]
    files = [Path(text) for text in arguments.files if text not in settings]
    if not files:
        raise ConfigError("there is no audio file to caption: name one behind the captioner")
    code = 0
    for captioned in caption(arguments.captioner, files, settings):
        if isinstance(captioned, Quarantined):
            complain(f"{captioned.path}: {captioned.reason}")
            code = FAULT
            continue
        path, text = captioned
        say(json.dumps({"path": spelt_out(str(path)), "caption": text}) if arguments.json else f"{path}\t{text}")
    return code
