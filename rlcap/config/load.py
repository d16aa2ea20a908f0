"""Settings from the `configs` folder and the command line: composed by Hydra, validated here, typed from then on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlcap.config.run import RunConfig
from rlcap.config.validation import build_section, raise_faults, suggestion
from rlcap.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
"""Beside the `rlcap` package, in a checkout and in the wheel."""


def load_config(overrides: Sequence[str] = ()) -> RunConfig:
    """Compose `configs/config.yaml` with Hydra overrides such as `experiment=esc10 algorithm.kl_coef=0.1`.

    Raises:
        ConfigError: one error that names every fault, by full key.
    """
    _check_configs_folder()
    faults: list[str] = []
    accepted = [accepted for text in overrides if (accepted := _accept(text, faults)) is not None]
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3", job_name="rlcap"):
            composed = compose("config", overrides=accepted)
        plain = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise_faults([*faults, f"the settings do not compose: {_first_line(error)}"])
        raise
    return build_section(RunConfig, _as_mapping(plain), tuple(faults))


def save_config(config: RunConfig, path: Path) -> None:
    """Write every setting, defaults included, as YAML that `read_config` loads back."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True), encoding="utf-8")


def read_config(path: Path) -> RunConfig:
    """Load what `save_config` wrote.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, or holds settings with faults.
    """
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no settings file at {path}; is this a run directory?") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no valid YAML: {_first_line(error)}") from error
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{path} must hold a YAML mapping of settings, got {type(plain).__name__}")
    return build_section(RunConfig, plain)


def choices(group: str) -> list[str]:
    """Return the words that `group=` takes: the files in `configs/<group>`."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def _check_configs_folder() -> None:
    if not (CONFIGS / "config.yaml").is_file():
        raise ConfigError(f"rlcap finds no configs folder beside its package (expected {CONFIGS}); install it again")


def _accept(text: str, faults: list[str]) -> str | None:
    """Return the override as Hydra shall read it; append a fault and return None where it cannot be used."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        faults.append(f"{text!r} is no setting of the form key=value: {_first_line(error)}")
        return None
    key = override.key_or_group
    if override.is_sweep_override():
        faults.append(f"{key} takes one value, got {text!r}; quote text with commas, such as {key}='\"a, b\"'")
    elif (CONFIGS / key).is_dir() and not override.is_delete():
        return _accept_choice(override, faults)
    elif override.is_delete() or override.package is not None:
        faults.append(f"{text!r} is not supported: give key=value")
    else:
        # Forced additions: Hydra would stop at the first unknown key, where validation names them all.
        return "++" + text.lstrip("+")
    return None


def _accept_choice(override: Override, faults: list[str]) -> str | None:
    """Check an override that picks a file of a group, such as `experiment=esc10`."""
    group, name = override.key_or_group, str(override.value())
    known = choices(group)
    if name in known:
        return f"{group}={name}"
    faults.append(f"there is no {group}={name}{suggestion(name, known)} known here: {', '.join(known)}")
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _as_mapping(plain: Any) -> Mapping[str, Any]:  # noqa: ANN401
    assert isinstance(plain, Mapping)
    return plain
