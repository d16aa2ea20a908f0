"""How commands describe themselves and their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where commands, or the actions of a command, are added."""

HelpFormatter = partial(argparse.RawDescriptionHelpFormatter, max_help_position=32)
"""Keeps the line breaks of descriptions and examples, and the list of commands on one line each."""


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], *, summary: str, details: str, more: str
) -> argparse.ArgumentParser:
    """Add a command: `summary` for the list of commands, `details` above its arguments and `more` below them."""
    parser = commands.add_parser(
        name, help=summary, description=details, epilog=more, formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Let a command take settings."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings, such as seed=1 or experiment=esc10"
    )
