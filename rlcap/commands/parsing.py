"""How commands describe themselves and their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where commands, or the actions of a command, are added."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and examples, and each command of a list on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)
        # argparse forgets the indent of commands when it measures them.
        self._action_max_length = 19


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], *, summary: str, details: str, more: str
) -> argparse.ArgumentParser:
    """Add a command: `summary` for the list of commands, `details` above its arguments and `more` below them."""
    parser = commands.add_parser(
        name, help=summary, description=details, epilog=more, formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def add_actions(commands: Commands, name: str, *, summary: str, details: str, more: str) -> Commands:
    """Add a command of several actions, described as others are; returns where those are added."""
    parser = commands.add_parser(
        name, help=summary, description=details, epilog=more, formatter_class=HelpFormatter, allow_abbrev=False
    )
    return parser.add_subparsers(title="actions", metavar="<action>", required=True)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Let a command take settings."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings, such as seed=1 or experiment=esc10"
    )
