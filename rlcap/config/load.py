"""Settings from the `configs` folder and the command line: composed by Hydra, validated here, typed from then on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError, safe_load

from rlcap.config.overrides import GivenSetting, read_overrides
from rlcap.config.paths import expand_home
from rlcap.config.run import RunConfig
from rlcap.config.validation import build_section, raise_faults, suggestion
from rlcap.errors import ConfigError
from rlcap.whole_file import whole_file

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
"""Beside the `rlcap` package, in a checkout and in the wheel."""


def load_config(overrides: Sequence[str] = ()) -> RunConfig:
    """Compose `configs/config.yaml` with Hydra overrides such as `experiment=esc10 algorithm.kl_coef=0.1`.

    Raises:
        ConfigError: one error that names every fault, by full key.
    """
    if not (CONFIGS / "config.yaml").is_file():
        raise ConfigError(f"rlcap finds no configs folder beside its package (expected {CONFIGS}); install it again")
    faults: list[str] = []
    given = read_overrides(overrides, faults)
    # Of two choices in a group the last one wins, as it does for values.
    picked = {one.key: one for one in given if _is_choice(one)}
    lines = [f"{group}={choice.value}" for group, choice in picked.items() if _exists(choice, faults)]
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3", job_name="rlcap"):
            settings = compose("config", overrides=lines)
    except (HydraException, OmegaConfBaseException) as error:
        raise_faults([*faults, f"the settings do not fit together: {_first_line(error)}"])
        raise
    OmegaConf.set_struct(settings, value=False)
    for one in given:
        if not _is_choice(one):
            _set(settings, one, faults)
    return _typed(settings, faults)


def save_config(config: RunConfig, path: Path) -> None:
    """Write every setting, defaults included, as YAML for `read_config`; the file is whole at any moment."""
    with whole_file(path) as fresh:
        fresh.write_text(OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True), encoding="utf-8")


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Load what `save_config` wrote, with changes such as `training.num_updates=200`.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, or holds settings with faults.
    """
    settings = OmegaConf.create(dict(_read_yaml(path)))
    faults: list[str] = []
    for one in read_overrides(overrides, faults):
        if not _is_choice(one):
            _set(settings, one, faults)
        elif one.key != "experiment" or one.value != settings.get("experiment"):
            faults.append(
                f"{one.key}={one.value} cannot be picked for a run that exists: {path} settled it; leave it out"
            )
    return _typed(settings, faults)


def choices(group: str) -> list[str]:
    """Return the words that `group=` takes: the files in `configs/<group>`."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def _set(settings: DictConfig, one: GivenSetting, faults: list[str]) -> None:
    """Set a value, unknown keys too: validation names them all, where Hydra would stop at the first."""
    try:
        OmegaConf.update(settings, one.key, one.value, force_add=True)
    except OmegaConfBaseException as error:
        faults.append(f"{one.key} cannot be set to {one.value!r}: {_first_line(error)}")


def _typed(settings: DictConfig, faults: list[str]) -> RunConfig:
    try:
        plain: Any = OmegaConf.to_container(settings, resolve=True)
    except OmegaConfBaseException as error:
        raise_faults([*faults, f"a setting refers to what is not there: {_first_line(error)}; \\${{ writes ${{ itself"])
        raise
    config = build_section(RunConfig, plain, tuple(faults))
    expand_home(config)
    config.settle_learning_rate()
    return config


def _is_choice(one: GivenSetting) -> bool:
    """Tell whether an override picks a file of a group, such as `experiment=esc10`."""
    return one.key in _groups()


@cache
def _groups() -> frozenset[str]:
    return frozenset(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())


def _exists(choice: GivenSetting, faults: list[str]) -> bool:
    group, name = choice.key, str(choice.value)
    known = choices(group)
    if name not in known:
        faults.append(f"there is no {group}={name}{suggestion(name, known)} known here: {', '.join(known)}")
    return name in known


def _read_yaml(path: Path) -> Mapping[str, object]:
    try:
        plain = safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no settings file at {path}; is this a run directory?") from error
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no valid YAML: {_first_line(error)}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {_first_line(error)}") from error
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{path} must hold a YAML mapping of settings, got {type(plain).__name__}")
    return plain


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
