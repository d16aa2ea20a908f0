"""Standard output and error that outlive their terminal: a run must not end because nobody reads what it says."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Collection
from typing import Any, TextIO, cast

TERMINAL_GONE, READER_GONE = errno.EIO, errno.EPIPE


def outlive_terminal() -> None:
    """From now on, what this process says to a terminal that is closed goes nowhere, instead of raising OSError.

    The same holds of standard error whose reader has left (`2>&1 | tee`). Standard output still raises BrokenPipeError
    then, since a command whose results nobody reads (`| head`) is to end.
    """
    sys.stdout = cast("TextIO", _Outliving(sys.stdout, {TERMINAL_GONE}))
    sys.stderr = cast("TextIO", _Outliving(sys.stderr, {TERMINAL_GONE, READER_GONE}))


def write_error(text: bytes) -> None:
    """Write to the descriptor of standard error, past Python's stream, where anybody is there to read it."""
    try:
        os.write(2, text)
    except OSError as error:
        if error.errno not in (TERMINAL_GONE, READER_GONE):
            raise


class _Outliving:
    """A text stream that is turned to nowhere once one of these errors says that its other end is gone."""

    def __init__(self, stream: TextIO, gone: Collection[int]) -> None:
        self._stream = stream
        self._gone = gone

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._turn_away(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._turn_away(error)

    def _turn_away(self, error: OSError) -> None:
        """What is buffered must go somewhere, or each further call, the last one at exit included, fails again."""
        if error.errno not in self._gone:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._stream, name)
