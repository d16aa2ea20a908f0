"""The settings that are paths: `~` means the home folder, and a run keeps them whatever folder it is resumed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rlcap.config.run import RunConfig
from rlcap.config.section import Section
from rlcap.errors import ConfigError

PATHS = (
    "run_dir",
    "cache_dir",
    "data.root",
    "captioner.checkpoint",
    "captioner.language_model",
    "captioner.audio_encoder",
    "reward.checkpoint",
    "reward.preferences",
    "reward.clap_checkpoint",
    "reward.clap_tokenizer",
)
"""Files and folders, relative to the working directory; what lies below `data.root` by definition is none of them."""


def paths_of(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield the paths that are set, with their keys."""
    for key in PATHS:
        section, name = _owner(config, key)
        if path := getattr(section, name):
            yield key, path


def expand_home(config: RunConfig) -> None:
    """Put home folders in place of `~` and `~name`: a shell does so only at the beginning of a word.

    Raises:
        ConfigError: there is no such home folder.
    """
    _replace(config, _expanded)


def make_absolute(config: RunConfig) -> None:
    """Note where paths lead from here, so that they lead there from anywhere."""
    _replace(config, lambda path: str(Path(path).absolute()))


def _expanded(path: str) -> str:
    if not path.startswith("~") or Path(path).exists():
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as unknown:
        raise ConfigError(f"{path} names a home folder that is not known here: give the whole path") from unknown


def _replace(config: RunConfig, change: Callable[[str], str]) -> None:
    for key, path in list(paths_of(config)):
        section, name = _owner(config, key)
        setattr(section, name, change(path))


def _owner(config: RunConfig, key: str) -> tuple[Section, str]:
    *above, name = key.split(".")
    section: Section = config
    for part in above:
        section = getattr(section, part)
    return section, name
