"""What `key=value` on the command line means: values are taken as they stand, where only one thing can be meant.

Hydra's grammar gives a meaning to many characters, and refuses others outright (`=`, `#`, letters beyond ASCII). It has
a say only where the setting takes more than text: in numbers, lists and mappings, and in what is quoted or escaped.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from rlcap.config.run import RunConfig
from rlcap.config.validation import setting_type

_KEY = re.compile(r"\+{0,2}(?P<key>[^\s=@~+\'\"][^\s=@\'\"]*)")
_UNSET = "null"


@dataclass(frozen=True, slots=True)
class GivenSetting:
    """A setting as it was given; whether there is one of that name, and which values it takes, is not known yet."""

    key: str
    value: Any


def read_overrides(overrides: Sequence[str], faults: list[str]) -> list[GivenSetting]:
    """Return what is given; append a fault, with what to write instead, for each override that cannot be read."""
    given = []
    for text in overrides:
        key, separator, value = text.partition("=")
        found = _KEY.fullmatch(key)
        if not separator or found is None:
            faults.append(f"{text!r} is not of the form key=value{_how_to_form(text)}")
            continue
        try:
            given.append(GivenSetting(found["key"], _read_value(found["key"], value)))
        except _UnreadableError as fault:
            faults.append(str(fault))
    return given


class _UnreadableError(Exception):
    """A value that may mean several things, or none."""


def _read_value(key: str, text: str) -> Any:  # noqa: ANN401 - what a setting may hold
    expected = setting_type(RunConfig, key)
    if expected is str:
        return _read_text(key, text)
    override = _parse(text)
    if typing.get_origin(expected) in (list, dict):
        return _read_collection(key, text, override)
    if override is None:
        return text  # of the wrong form for any number or word: validation says which is expected
    if override.is_sweep_override():
        raise _UnreadableError(f"{key} takes one value, got {f'{key}={text}'!r}; quote text that holds commas")
    return override.value()


def _read_text(key: str, text: str) -> str | None:
    """Return text as it stands, quotes around all of it and backslashes in front of special characters excepted."""
    if text == _UNSET:
        return None
    if text[:1] in ("'", '"') and (len(text) == 1 or text[-1] != text[0]):
        raise _UnreadableError(
            f"{key} begins with a quotation mark that is not closed: {text}; give both, inside those of the shell, as "
            f"in '{key}=\"a b\"'"
        )
    if text[:1] in ("'", '"') or "\\" in text:
        override = _parse(text)
        if override is not None and isinstance(found := override.value(), str):
            return found
    return text


def _read_collection(key: str, text: str, override: Override | None) -> Any:  # noqa: ANN401
    """Return a list or mapping; what Hydra cannot read is tried as YAML, which takes most characters as they are."""
    if override is None:
        found = _read_yaml(text)
        if isinstance(found, list | dict):
            return found
    elif not override.is_sweep_override():
        return override.value()
    raise _UnreadableError(
        f"{key} takes a list or mapping in brackets, got {text!r}; quote what holds = , : # or brackets itself, as in "
        f'\'{key}=["a=1", "b, c"]\''
    )


def _read_yaml(text: str) -> object:
    try:
        return yaml.load(text, yaml.BaseLoader)  # makes text, lists and mappings alone
    except yaml.YAMLError:
        return None


def _parse(text: str) -> Override | None:
    """Return what Hydra reads in a value; None where it refuses it."""
    try:
        return OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return None


def _how_to_form(text: str) -> str:
    if "=" not in text:
        return ": it holds no =; put no spaces around it, and quote values with spaces, as in 'key=a b'"
    if text.startswith("="):
        return ": a key stands in front of =, without a space"
    if text.startswith("~"):
        return ": a setting cannot be removed, give it another value"
    return ": a key is words with dots between them, such as data.root"
