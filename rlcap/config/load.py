"""Settings from the `configs` folder and the command line: composed by Hydra, validated here, typed from then on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError, safe_load

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
    parsed = _parse(overrides, faults)
    values = [override for override in parsed if not _is_choice(override)]
    # Of two choices in a group the last one wins, as it does for values.
    picked = {override.key_or_group: override for override in parsed if _is_choice(override)}
    lines = [f"{group}={choice.value()}" for group, choice in picked.items() if _exists(choice, faults)]
    # Forced additions: Hydra would stop at the first unknown key, where validation names them all.
    lines += ["++" + str(override.input_line).lstrip("+") for override in values]
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3", job_name="rlcap"):
            plain: Any = OmegaConf.to_container(compose("config", overrides=lines), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise_faults([*faults, f"the settings do not fit together: {_first_line(error)}"])
        raise
    return build_section(RunConfig, plain, tuple(faults))


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
    for override in _parse(overrides, faults):
        key, value = override.key_or_group, override.value()
        if not _is_choice(override):
            try:
                OmegaConf.update(settings, key, value, force_add=True)
            except OmegaConfBaseException as error:
                faults.append(f"{key} cannot be set: {_first_line(error)}")
        elif key != "experiment" or value != settings.get("experiment"):
            faults.append(f"{key}={value} cannot be picked for a run that exists: {path} settled it; leave it out")
    plain: Any = OmegaConf.to_container(settings, resolve=True)
    return build_section(RunConfig, plain, tuple(faults))


def choices(group: str) -> list[str]:
    """Return the words that `group=` takes: the files in `configs/<group>`."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def _parse(overrides: Sequence[str], faults: list[str]) -> list[Override]:
    """Return the overrides that can be read; append a fault for each of the others."""
    parsed = []
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            faults.append(f"{text!r} is not of the form key=value; quote values with spaces, as in 'key=\"a b\"'")
            continue
        if override.is_delete() or override.package is not None:
            faults.append(f"{text!r} is not of the form key=value")
        elif override.is_sweep_override():
            faults.append(f"{override.key_or_group} takes one value, got {text!r}; quote text that holds commas")
        else:
            parsed.append(override)
    return parsed


def _is_choice(override: Override) -> bool:
    """Tell whether an override picks a file of a group, such as `experiment=esc10`."""
    return (CONFIGS / str(override.key_or_group)).is_dir()


def _exists(choice: Override, faults: list[str]) -> bool:
    group, name = choice.key_or_group, str(choice.value())
    known = choices(group)
    if name not in known:
        faults.append(f"there is no {group}={name}{suggestion(name, known)} known here: {', '.join(known)}")
    return name in known


def _read_yaml(path: Path) -> Mapping[str, object]:
    try:
        plain = safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no settings file at {path}; is this a run directory?") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid YAML: {_first_line(error)}") from error
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{path} must hold a YAML mapping of settings, got {type(plain).__name__}")
    return plain


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
