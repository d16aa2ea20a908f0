"""Models, tokenizers and processors out of directories of transformers: local, whole, safetensors, no code of theirs.

Every loader that goes through transformers goes through here: captioners, language models, and the CLAPs of audio
encoders and rewards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import logging as transformers_logging

from rlcap.captioners.adapters import (
    base_of_adapters,
    holds_adapters,
    merge_adapters,
    merged_weights,
    state_without_adapters,
)
from rlcap.captioners.checkpoint_files import (
    CONFIG_FILE,
    MODEL_WEIGHTS,
    check_directory,
    check_weights,
    in_a_sentence,
    read_json,
)
from rlcap.captioners.master_weights import held_in
from rlcap.errors import CheckpointError

# A bar for each file says nothing and breaks ours; what does not fit is said by our errors.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

COMPUTED = re.compile(
    r"(^|\.)(position_ids|relative_position_index|num_batches_tracked|(original_)?inv_freq"
    r"|(attn|attention|crossattention)\.(bias|masked_bias)|embed_positions\.(weights|_float_tensor))$"
)
"""Buffers that a model computes by itself; older versions of transformers wrote them all the same."""
BESIDE = re.compile(r"^v_head\.")
"""What trainers leave beside a model, and no caption goes through: the critic of TRL."""


def load_model(model_class: Any, directory: Path, **settings: object) -> PreTrainedModel:  # noqa: ANN401 - auto classes
    """Load a model whole, adapters of peft merged into the model that they belong to.

    What transformers loads in silence for a good reason is loaded: tied weights stored once or twice, old names,
    shards, buffers that are computed anyway. It would leave out what is not known, and draw what is missing at random,
    with a mere warning; both are refused.

    Args:
        model_class: a class or auto class of transformers.
        directory: in the layout of `save_pretrained`, of a model or of adapters.
        settings: more of `from_pretrained`, such as `dtype`.

    Raises:
        CheckpointError: weights are damaged, missing, pickled, or of another architecture.
    """
    check_directory(directory)
    if holds_adapters(directory):
        return merge_adapters(load_model(model_class, base_of_adapters(directory), **settings), directory)
    _check_config(model_class, directory / CONFIG_FILE)
    check_weights(directory, MODEL_WEIGHTS)
    with in_a_sentence(f"the model in {directory} cannot be loaded"):
        model, found = model_class.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **settings,
        )
    loaded: PreTrainedModel = model
    _refuse_strangers(directory, loaded, found)
    return loaded


def save_model(model: PreTrainedModel, directory: Path, dtype: torch.dtype) -> None:
    """Write a model that plain transformers loads, in this dtype, adapters merged; its weights stay as they are."""
    merged = merged_weights(model, dtype)
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            part.config.dtype = dtype  # the library writes that of the whole alone
    with held_in(dtype, model):
        model.save_pretrained(directory, state_dict=state_without_adapters(model) | merged if merged else None)


def read_part(part: Any, directory: Path) -> Any:  # noqa: ANN401 - transformers' auto classes
    """Read a config, tokenizer, feature extractor or processor; adapters have at most a tokenizer of their own.

    Raises:
        CheckpointError: it is missing or damaged, or asks for code of its own.
    """
    check_directory(directory)
    if holds_adapters(directory) and not (part is AutoTokenizer and (directory / TOKENIZER_CONFIG_FILE).is_file()):
        directory = base_of_adapters(directory)
    with in_a_sentence(f"{directory} holds no readable {_name_of(part)}"):
        return part.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def local_directory(place: str | Path) -> Path:
    """Return a directory as it is, and for a hub name the one in the library's own cache.

    Raises:
        CheckpointError: there is neither; nothing is ever fetched.
    """
    if Path(place).exists():
        return Path(place)
    try:
        return Path(snapshot_download(str(place), local_files_only=True))
    except (OSError, ValueError) as absent:
        raise CheckpointError(f"{place} does not exist, and is no name of the hub whose files are here") from absent


def _check_config(model_class: Any, path: Path) -> None:  # noqa: ANN401
    """Refuse the config of another model, which a class that was named would take for its own, and pickles in it."""
    config, expected = read_json(path), getattr(model_class, "config_class", None)
    if expected is not None and config.get("model_type") != expected.model_type:
        raise CheckpointError(f"{path} is of a {config.get('model_type')}, where a {expected.model_type} is expected")
    if str(config.get("transformers_weights", "")).endswith(".bin"):
        raise CheckpointError(f"{path} names a pickle as its transformers_weights: remove that line")


def _name_of(part: Any) -> str:  # noqa: ANN401
    """Say what a class of transformers reads, in words: `AutoFeatureExtractor` reads a feature extractor."""
    return " ".join(re.findall("[A-Z][a-z]+", part.__name__.removeprefix("Auto").removesuffix("Fast"))).lower()


def _refuse_strangers(directory: Path, model: PreTrainedModel, found: Mapping[str, Any]) -> None:
    learned = {name for name, _ in model.named_parameters()}
    missing = sorted(name for name in found["missing_keys"] if name in learned or not COMPUTED.search(name))
    unknown = {name for name in found["unexpected_keys"] if not (COMPUTED.search(name) or BESIDE.search(name))}
    strangers = sorted(unknown | {name for name, *_ in found["mismatched_keys"]})
    if strangers:
        raise CheckpointError(
            f"{directory} holds weights of another architecture than its config.json: they differ in "
            f"{_some([*strangers, *missing])}"
        )
    if missing:
        raise CheckpointError(f"{directory} lacks weights of its {type(model).__name__}: {_some(missing)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
