"""Text terms of a user: functions that packages offer under an entry point, or that code registers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

import numpy as np
from jaxtyping import Float32

from rlcap.config.validation import suggestion
from rlcap.errors import ConfigError, RewardError

TextTerm = Callable[[str], float]
"""Caption to value; NaN where it cannot judge, which makes the score a failure."""
GROUP = "rlcap.text_terms"
"""The entry point group: a distribution that names a function here has been installed on purpose."""
LARGEST = float(np.finfo(np.float32).max)

_registered: dict[str, TextTerm] = {}


def register_text_term(name: str, function: TextTerm) -> None:
    """Make `function` known in this process as `name`, in place of whatever had that name."""
    _registered[name] = function


def known_text_terms() -> list[str]:
    """Names of all terms that are registered here or offered by installed packages."""
    return sorted({*_registered, *(point.name for point in entry_points(group=GROUP))})


def find_text_terms(names: Iterable[str]) -> dict[str, TextTerm]:
    """Return the function behind each name.

    Raises:
        ConfigError: a name is not known here, is offered by two packages, or its package cannot be imported.
    """
    return {name: _registered[name] if name in _registered else _offered(name) for name in names}


def custom_values(
    captions: Sequence[str], terms: Mapping[str, TextTerm], weights: Mapping[str, float]
) -> Float32[np.ndarray, " caption"]:
    """Sum of the weighted terms of each caption; NaN where a term gives no finite number.

    Captions that coincide are read once.

    Raises:
        RewardError: a term raises; it names the term and the caption.
    """
    values = {caption: _value(caption, terms, weights) for caption in dict.fromkeys(captions)}
    return np.array([values[caption] for caption in captions], dtype=np.float32)


def _value(caption: str, terms: Mapping[str, TextTerm], weights: Mapping[str, float]) -> float:
    # By name: the order in which terms are added up decides the last bits.
    total = sum(weights[name] * _call(name, terms[name], caption) for name in sorted(terms))
    return total if abs(total) <= LARGEST else float("nan")


def _call(name: str, term: TextTerm, caption: str) -> float:
    try:
        return float(term(caption))
    except Exception as error:
        raise RewardError(
            f"text term {name!r} failed on the caption {caption!r}: {type(error).__name__}: {error}"
        ) from error


def _offered(name: str) -> TextTerm:
    points = {point.value: point for point in entry_points(group=GROUP) if point.name == name}
    if not points:
        known = known_text_terms()
        raise ConfigError(
            f"reward.text_terms.custom.{name} is not a text term{suggestion(name, known)} known here: "
            f"{', '.join(known) or 'none'}; install the package that offers it as an entry point of the group {GROUP}, "
            "or call register_text_term first"
        )
    if len(points) > 1:
        raise ConfigError(
            f"reward.text_terms.custom.{name} is offered {len(points)} times, as {' and '.join(sorted(points))}; "
            "uninstall all but one of these packages"
        )
    (point,) = points.values()
    return _loaded(point)


def _loaded(point: EntryPoint) -> TextTerm:
    try:
        term: TextTerm = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"reward.text_terms.custom.{point.name} cannot be had from {point.value}: {error}") from error
    if not callable(term):
        raise ConfigError(
            f"reward.text_terms.custom.{point.name}: {point.value} is no function, got {type(term).__name__}"
        )
    return term
