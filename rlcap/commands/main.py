"""`rlcap <command>`: picks the command, and turns faults into one sentence and an exit code."""

from __future__ import annotations

import argparse
import io
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
from rlcap.commands.faults import sentence_of, sentence_of_unforeseen
from rlcap.commands.parsing import HelpFormatter
from rlcap.commands.terminal import FAULT, INTERRUPTED, LOST, USAGE, complain
from rlcap.errors import ActorLostError, ConfigError, RlcapError
from rlcap.process_settings import settle_process
from rlcap.standard_streams import outlive_terminal
from rlcap.stop_signals import interrupt_on_stop_signals, stop_with_supervisor

log = logging.getLogger(__name__)

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
    _write_any_letter()
    outlive_terminal()
    interrupt_on_stop_signals()
    stop_with_supervisor()
    try:
        code = run(sys.argv[1:] if arguments is None else arguments)
    except Exception as error:  # noqa: BLE001 - the last place where a fault can become a sentence
        complain(sentence_of_unforeseen(error))
        code = FAULT
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command; return 0, 1 for a fault, 2 for wrong usage or settings, 75 for a lost process, 130 if stopped."""
    parsed = command_line().parse_args(caption.with_dashed_files(spelt_out(arguments)))
    try:
        settle_process()
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
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
        # Whoever read our output has left (`rlcap caption ... | head`).
        _let_go_of_output()
        return FAULT
    except OSError as error:
        log.debug("what the system refused", exc_info=error)
        complain(sentence_of(error))
        _let_go_of_output()
        return FAULT
    return code


def _let_go_of_output() -> None:
    """Send nowhere what is still buffered and cannot be written: Python would try again as it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_any_letter() -> None:
    """Let names of files and captions of any language through, whatever the terminal's encoding."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, who wants none of it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
    for stream, of_unicode in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            is_unicode = stream.encoding.lower().startswith("utf")
            stream.reconfigure(errors=of_unicode if is_unicode else "backslashreplace")


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
