"""Where the figures of a benchmark go besides the terminal."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Let an action write its figures."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")


def deliver(figures: Mapping[str, object], arguments: argparse.Namespace) -> None:
    """Write figures where the arguments say."""
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
