"""Which class reads which captioner: rlcap's own families, those of transformers' model types, and installed ones.

A package adds a family of its own by an entry point of the group `rlcap.captioners`, whose name is that of the family:

    [project.entry-points."rlcap.captioners"]
    dcase = "my_package.captioner:DcaseCaptioner"
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from rlcap.captioners.adapters import base_of_adapters, holds_adapters
from rlcap.captioners.audio_llm import AudioLlmCaptioner
from rlcap.captioners.captioner import Captioner
from rlcap.captioners.checkpoint_files import CONFIG_FILE, read_json
from rlcap.captioners.encoder_decoder import EncoderDecoderCaptioner
from rlcap.captioners.prefix import PrefixCaptioner
from rlcap.errors import CheckpointError

GROUP = "rlcap.captioners"
MODEL_TYPES: Mapping[str, type[Captioner]] = {
    model_type: family for family in (EncoderDecoderCaptioner, AudioLlmCaptioner) for model_type in family.models
}
"""The `model_type` in a checkpoint's `config.json`."""


@cache
def families() -> Mapping[str, type[Captioner]]:
    """Return every family by name. Raises CheckpointError where an installed one cannot be used."""
    own: dict[str, type[Captioner]] = {
        family.family: family for family in (PrefixCaptioner, EncoderDecoderCaptioner, AudioLlmCaptioner)
    }
    for entry in entry_points(group=GROUP):
        found = entry.load()
        if not (isinstance(found, type) and issubclass(found, Captioner)):
            raise CheckpointError(f"the captioner family {entry.name} ({entry.value}) is no subclass of Captioner")
        own[entry.name] = found
    return own


def family_of(directory: Path) -> type[Captioner]:
    """Return the class that reads a captioner directory.

    Raises:
        CheckpointError: the directory is missing or damaged, or of a family or architecture not known here.
    """
    config = directory / CONFIG_FILE
    if not config.is_file() and holds_adapters(directory):
        return family_of(base_of_adapters(directory))
    if not config.is_file():
        raise CheckpointError(f"{directory} holds no captioner: {CONFIG_FILE} is missing there")
    plain = read_json(config)
    name, model_type = plain.get("family"), plain.get("model_type")
    if name is None and model_type in MODEL_TYPES:
        return MODEL_TYPES[str(model_type)]
    if name not in families():
        raise CheckpointError(
            f"{directory} holds a captioner of family {name!r} (model type {model_type!r}); the families "
            f"known here are {', '.join(families())} the model types {', '.join(MODEL_TYPES)}"
        )
    return families()[str(name)]
