"""Plain settings (nested dictionaries) to typed ones, with every fault in one error."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlcap.config.section import Section
from rlcap.errors import ConfigError

AnySection = TypeVar("AnySection", bound=Section)

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


def build_section(
    section_type: type[AnySection], plain: Mapping[str, Any], earlier_faults: tuple[str, ...] = ()
) -> AnySection:
    """Turn nested dictionaries into a section and the sections below it.

    Raises:
        ConfigError: names every stray key, wrong type, unknown word and value out of range, after `earlier_faults`.
    """
    typed = OmegaConf.structured(section_type)
    faults = [*earlier_faults, *_assign(typed, section_type, plain, prefix="")]
    section: AnySection = OmegaConf.to_object(typed)  # type: ignore[assignment]
    faults.extend(_section_faults(section, prefix=""))
    raise_faults(faults)
    return section


def setting_type(section_type: type[Section], key: str) -> Any:  # noqa: ANN401 - any type of a field
    """Return the type of a setting by its full key; None where there is none of that name."""
    first, _, rest = key.partition(".")
    found = typing.get_type_hints(section_type).get(first)
    if not rest:
        return found
    if isinstance(found, type) and issubclass(found, Section):
        return setting_type(found, rest)
    return typing.get_args(found)[1] if typing.get_origin(found) is dict else None


def raise_faults(faults: list[str]) -> None:
    """Raise one `ConfigError` that lists `faults`; return where there are none."""
    if not faults:
        return
    if len(faults) == 1:
        raise ConfigError(faults[0])
    raise ConfigError(f"the settings have {len(faults)} faults:\n" + "\n".join(f"  {fault}" for fault in faults))


def suggestion(word: str, known: list[str]) -> str:
    """Return `; did you mean ...?` for a close match of `word`, else nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ";"


def _assign(typed: DictConfig, section_type: type[Section], plain: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Copy `plain` into `typed`, and yield a fault for each key or value that does not fit."""
    types = typing.get_type_hints(section_type)
    for key, value in plain.items():
        name = f"{prefix}{key}"
        if key not in types:
            known = list(types)
            yield f"{name} is not a setting{suggestion(str(key), known)} known here: {', '.join(known)}"
        elif dataclasses.is_dataclass(types[key]):
            if isinstance(value, Mapping):
                yield from _assign(typed[key], types[key], value, prefix=f"{name}.")
            else:
                yield f"{name} is a group of settings, got {value!r}; set one, such as {name}.{_first(types[key])}"
        else:
            yield from _assign_value(typed, key, value, types[key], name)


def _assign_value(typed: DictConfig, key: str, value: Any, expected: Any, name: str) -> Iterator[str]:  # noqa: ANN401
    # OmegaConf would read any text as it stands, and any number as a truth value.
    if value is None or isinstance(value, bool) != (expected is bool):
        yield f"{name} must be {_describe(expected)}, got {value!r}"
        return
    try:
        typed[key] = value
    except OmegaConfBaseException:
        if isinstance(expected, type) and issubclass(expected, Enum):
            known = [member.name for member in expected]
            yield f"{name} must be one of {', '.join(known)}; got {value!r}" + suggestion(str(value), known).rstrip(";")
        else:
            yield f"{name} must be {_describe(expected)}, got {value!r}"


def _section_faults(section: Section, prefix: str) -> Iterator[str]:
    """Yield the faults of a section and of those below it, by full key."""
    for fault in section.faults():
        yield prefix + fault
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield from _section_faults(value, prefix=f"{prefix}{field.name}.")


def _describe(expected: Any) -> str:  # noqa: ANN401
    """Say in words what a type allows."""
    if isinstance(expected, type) and issubclass(expected, Enum):
        return "one of " + ", ".join(member.name for member in expected)
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if origin is list:
        return f"a list, each item {_describe(inner[0])}"
    if origin is dict:
        return f"a mapping, each value {_describe(inner[1])}"
    return _WORDS[expected]


def _first(section_type: Any) -> str:  # noqa: ANN401
    return dataclasses.fields(section_type)[0].name
