"""`rlcap <command>`: picks the command, and turns faults into one sentence and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from rlcap.commands import (
    actors,
    bench,
    caption,
    check_captioner,
    data,
    evaluate,
    ledger,
    plan,
    preferences,
    report,
    reward,
    stages,
    train,
)
from rlcap.commands.bench.simulate import spelt_out
from rlcap.commands.parsing import HelpFormatter
from rlcap.commands.terminal import FAULT, INTERRUPTED, LOST, USAGE, complain
from rlcap.errors import ActorLostError, ConfigError, RlcapError
from rlcap.process_settings import settle_process

_DESCRIPTION = """\
Fine-tune an audio captioner to human taste, on audio without captions.

A reward model over CLAP embeddings is fitted on pairwise preferences; PPO then tunes the captioner so that its
captions score higher, without drifting far from where it started."""

_EPILOG = """\
examples:
  rlcap quickstart                                   the whole job on synthetic sounds, on this machine
  rlcap train experiment=esc10 data.root=recordings  the whole job on recordings
  rlcap caption runs/latest dog.wav rain.flac        captions by the tuned captioner

`rlcap <command> --help` says what a command reads and writes, and which settings matter most.
Settings are given as key=value; a wrong key is answered with the keys there are."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command; return 0, 1 for a fault, 2 for wrong usage or settings, 75 for a lost process, 130 for Ctrl-C."""
    parsed = command_line().parse_args(spelt_out(arguments))
    settle_process()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        code: int = parsed.run(parsed)
    except ConfigError as error:
        complain(str(error))
        return USAGE
    except ActorLostError as error:
        complain(str(error))
        return LOST
    except RlcapError as error:
        complain(str(error))
        return FAULT
    except KeyboardInterrupt as interrupt:
        complain(str(interrupt) or "stopped")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left (`rlcap caption ... | head`); what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAULT
    return code


def command_line() -> argparse.ArgumentParser:
    """Return the parser of every command, as `main` uses it."""
    parser = argparse.ArgumentParser(
        prog="rlcap", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=HelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", metavar="<command>", required=True)
    modules = (
        train,
        stages,
        reward,
        actors,
        preferences,
        evaluate,
        caption,
        check_captioner,
        report,
        ledger,
        data,
        bench,
        plan,
    )
    for module in modules:
        module.register(commands)
    return parser
