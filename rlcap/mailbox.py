"""Requests to a run that is going on, and its answers, as files in its folder.

Whoever may write into the folder may ask; no port is opened. That works wherever the folder can be seen, on this
machine or on a shared file system.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcap.errors import DataError, RunError
from rlcap.tables.json_values import read_json_object
from rlcap.whole_file import whole_file

REQUEST, ANSWER, ALIVE = ".request.json", ".answer.json", "alive"
POLL_S = 0.1
MAX_SILENCE_S = 30.0
"""A run that has given no sign of life for so long is taken to have ended."""


@dataclass(frozen=True, slots=True)
class Message:
    """One request."""

    name: str
    action: str
    arguments: Mapping[str, Any]


class Mailbox:
    """The run's side: takes requests and answers each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left_over in (*folder.glob(f"*{REQUEST}"), *folder.glob(f"*{ANSWER}")):
            left_over.unlink()
        self.beat()

    def beat(self) -> None:
        """Give a sign of life."""
        (self._folder / ALIVE).touch()

    def take(self) -> list[Message]:
        """Return new requests in the order in which they came; what is no request is answered by a refusal."""
        messages = []
        for path in sorted(self._folder.glob(f"*{REQUEST}")):
            name = path.name.removesuffix(REQUEST)
            try:
                messages.append(_message(name, path))
            except DataError as error:
                self.refuse(name, f"the request cannot be read: {error}")
            path.unlink()
        return messages

    def answer(self, name: str, content: Mapping[str, Any]) -> None:
        """Answer a request."""
        _write(self._folder / f"{name}{ANSWER}", {"content": dict(content)})

    def refuse(self, name: str, reason: str) -> None:
        """Answer that a request was not granted, and why."""
        _write(self._folder / f"{name}{ANSWER}", {"refused": reason})

    def close(self) -> None:
        """Say that the run has ended; whoever still waits for an answer is told."""
        for message in self.take():
            self.refuse(message.name, "the run has ended")
        (self._folder / ALIVE).unlink(missing_ok=True)


def ask(folder: Path, action: str, arguments: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """Ask the run whose mailbox is in `folder`, and wait for its answer.

    Raises:
        RunError: the run is not going on, refuses, or does not answer in time.
    """
    _check_alive(folder)
    name = f"{time.time_ns()}-{secrets.token_hex(8)}"
    answer = folder / f"{name}{ANSWER}"
    _write(folder / f"{name}{REQUEST}", {"action": action, "arguments": dict(arguments)})
    deadline = time.monotonic() + timeout_s
    while not answer.exists():
        if time.monotonic() > deadline:
            (folder / f"{name}{REQUEST}").unlink(missing_ok=True)
            raise RunError(f"the run in {folder.parent} did not answer within {timeout_s:g} s; see its log")
        time.sleep(POLL_S)
    found = read_json_object(answer)
    answer.unlink()
    if "refused" in found:
        raise RunError(found["refused"])
    content: dict[str, Any] = found["content"]
    return content


def _message(name: str, path: Path) -> Message:
    content = read_json_object(path)
    action, arguments = content.get("action"), content.get("arguments")
    if not isinstance(action, str) or not isinstance(arguments, dict):
        raise DataError("expected an action as text and arguments as an object")
    return Message(name, action, arguments)


def _check_alive(folder: Path) -> None:
    try:
        silence_s = time.time() - (folder / ALIVE).stat().st_mtime
    except FileNotFoundError as error:
        raise RunError(f"the run in {folder.parent} is not going on: only a run in its PPO stage answers") from error
    if silence_s > MAX_SILENCE_S:
        raise RunError(
            f"the run in {folder.parent} has given no sign of life for {silence_s:.0f} s: it was killed, or its "
            "machine hangs; continue it with `rlcap train resume=true`"
        )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with whole_file(path) as fresh:
        fresh.write_text(json.dumps(content), encoding="utf-8")
