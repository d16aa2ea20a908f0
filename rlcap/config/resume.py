"""What may change when a run goes on: not what its start has settled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from rlcap.config.run import RunConfig
from rlcap.config.section import Section
from rlcap.config.validation import raise_faults

SETTLED = (
    "experiment",
    "seed",
    "data",
    "captioner",
    "sft",
    "reward.clap",
    "training.clips_per_batch",
    "training.batches_per_update",
    "training.checkpoint_dir",
)
"""The audio stream, in which a checkpoint is a position, what the baseline is made of, and where checkpoints lie."""
FREE = ("data.root", "data.soundscapes.num_workers")
"""Exceptions: they change no result. That recordings which moved are still the same shows once they are listed."""


def refuse_changes(began_with: RunConfig, goes_on_with: RunConfig) -> None:
    """Refuse settings that a run in progress cannot take over.

    Raises:
        ConfigError: names every such setting, with the value that it began with.
    """
    before, now = dict(_values(began_with)), dict(_values(goes_on_with))
    raise_faults(
        [
            f"{key} is settled when a run begins: it was {before[key]!r} and cannot become {now[key]!r}; "
            "leave it out, or start another run with it"
            for key in before
            if before[key] != now[key] and _is_below(key, SETTLED) and not _is_below(key, FREE)
        ]
    )


def _values(section: Section, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every setting by full key."""
    for field in fields(section):  # type: ignore[arg-type]
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield from _values(value, prefix=f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def _is_below(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in keys)
