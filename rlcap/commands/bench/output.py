"""Where the figures of a benchmark go besides the table: a JSON file, a page, and beside those of an earlier one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlcap.commands.terminal import aligned, say
from rlcap.errors import ConfigError
from rlcap.writable import require_file


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Let an action write and compare its figures."""
    parser.set_defaults(benchmark=parser.prog)
    parser.add_argument("--json", type=_new_file, metavar="FILE", help="write all figures there")
    parser.add_argument("--html", type=_new_file, metavar="FILE", help="write a page with plots there")
    parser.add_argument(
        "--compare", type=_earlier, metavar="OLD.json", help="also print each figure over that of an earlier --json"
    )


def deliver(found: Mapping[str, object], arguments: argparse.Namespace) -> None:
    """Write and compare figures as the arguments say."""
    # As they are read back: tuples become lists, and old and new figures are of one kind.
    figures: dict[str, Any] = json.loads(json.dumps(found))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if arguments.compare is not None:
        say(f"\n{_comparison(arguments.compare, figures)}")
    if arguments.html is not None:
        from rlcap.bench.page import render_bench
        from rlcap.report.page import write_page

        write_page(render_bench(arguments.benchmark, figures, arguments.compare), arguments.html)


def _new_file(name: str) -> Path:
    """Refuse before anything is measured what could not be written afterwards."""
    path = Path(name)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent} to write {path.name} to")
    try:
        require_file(path, name)
    except ConfigError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from fault
    return path


def _earlier(name: str) -> dict[str, Any]:
    try:
        figures = json.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{name} cannot be read as the --json of an earlier run: {error}") from error
    if not isinstance(figures, dict) or "hardware" not in figures:
        raise argparse.ArgumentTypeError(f"{name} is no --json of an earlier run: it names no hardware")
    return figures


def _comparison(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    from rlcap.bench.figures import changes

    found = changes(old, new)
    if not found:
        return "nothing to compare: the earlier figures are of another benchmark"
    rows = [("figure", "old", "new", "new/old")]
    rows += [
        (one.name, f"{one.old:.4g}", f"{one.new:.4g}", "" if one.ratio is None else f"{one.ratio:.2f}") for one in found
    ]
    if old["hardware"] == new["hardware"]:
        return aligned(rows)
    return f"{aligned(rows)}\n\nThe earlier figures are of another machine or of other versions: {old['hardware']}"
