"""Low-rank adapters on a part of a transformers model, by peft (Hu et al., 2022, LoRA)."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlcap.captioners.checkpoint_files import check_weights, in_a_sentence, read_json
from rlcap.errors import CheckpointError

PEFT_PREFIX = "base_model.model."
"""Stands before every name in the adapter files of peft."""


def add_lora(model: PreTrainedModel, part: nn.Module, *, rank: int, alpha: float, seed: int = 0) -> None:
    """Adapt every linear layer below `part`, a submodule of `model`; only the adapters are left to be trained.

    The change is zero at first.

    Raises:
        CheckpointError: the part has no linear layer.
    """
    path = next(name for name, module in model.named_modules() if module is part)
    layers = {
        name.rsplit(".", 1)[-1] for name, module in part.named_modules() if isinstance(module, nn.Linear | Conv1D)
    }
    if not layers:
        raise CheckpointError(f"{type(part).__name__} has no linear layer to adapt: set captioner.decoder=full")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=rf"{re.escape(path)}\.(?:.*\.)?(?:{'|'.join(sorted(layers))})",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in part.modules()),
    )
    _inject(config, model, seed)


def has_adapters(model: nn.Module) -> bool:
    """Tell whether a model has been adapted."""
    return any(isinstance(module, LoraLayer) for module in model.modules())


@torch.no_grad()
def merged_weights(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the adapted weights with their adapters merged, added up in float32 and then rounded to `dtype`."""
    return {
        f"{name}.weight": (module.get_base_layer().weight.float() + module.get_delta_weight("default").float()).to(
            dtype
        )
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def state_without_adapters(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model under the names that they have without adapters."""
    return {
        name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items() if "lora_" not in name
    }


def save_adapters(model: PreTrainedModel, base: str, directory: Path) -> None:
    """Write the adapters alone, as `PeftModel.from_pretrained(base, directory)` reads them."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = base
    config.save_pretrained(str(directory))
    # Left to itself, peft looks for the base's config on the hub to learn whether words were added.
    state = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    named = {PEFT_PREFIX + name: tensor.contiguous() for name, tensor in state.items()}
    save_file(named, directory / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def holds_adapters(directory: Path) -> bool:
    """Tell whether a directory holds adapters in the layout of peft."""
    found: bool = (directory / CONFIG_NAME).is_file()
    return found


def base_of_adapters(directory: Path) -> Path:
    """Return the directory of the model that adapters belong to; relative ones begin at the adapters.

    Raises:
        CheckpointError: the adapters name none, or one that is not there, or that has adapters itself.
    """
    path = directory / CONFIG_NAME
    named = read_json(path).get("base_model_name_or_path")
    remedy = f"set base_model_name_or_path in {path} to the directory of that model"
    if not isinstance(named, str) or not named:
        raise CheckpointError(f"the adapters in {directory} do not name the model that they belong to: {remedy}")
    base = directory / named
    if not base.is_dir():
        raise CheckpointError(
            f"the adapters in {directory} belong to {named}, which is no directory here: {remedy}, "
            "absolute or relative to the adapters"
        )
    if holds_adapters(base):
        raise CheckpointError(f"the adapters in {directory} belong to {base}, which holds adapters itself: {remedy}")
    return base


def link_adapters(directory: Path, base: str) -> None:
    """Name the model that adapters belong to; relative paths begin at the adapters."""
    config = _read_config(directory)
    config.base_model_name_or_path = base
    config.save_pretrained(str(directory))


def load_adapters(model: PreTrainedModel, directory: Path) -> None:
    """Add the adapters in a directory to the model that they belong to.

    Raises:
        CheckpointError: they are damaged, or of another model.
    """
    with in_a_sentence(f"the adapters in {directory} cannot be loaded"):
        _inject(_read_config(directory), model, seed=0)
        _put_adapters(model, directory)


def merge_adapters(model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """Return the model with the adapters in a directory in its weights, whatever kind of peft's they are.

    Raises:
        CheckpointError: they are damaged, of another model, or of a kind that cannot be merged.
    """
    with (
        in_a_sentence(f"the adapters in {directory} cannot be merged into their model"),
        torch.random.fork_rng(),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # of peft's own
        adapted = PeftModel(model, _read_config(directory))
        _put_adapters(adapted, directory)
        merged: PreTrainedModel = adapted.merge_and_unload()
    return merged.requires_grad_(True)


def _read_config(directory: Path) -> PeftConfig:
    with in_a_sentence(f"{directory / CONFIG_NAME} cannot be read"):
        return PeftConfig.from_pretrained(str(directory))


def _put_adapters(model: PreTrainedModel | PeftModel, directory: Path) -> None:
    """Load the weights of adapters into a model that has places for them."""
    check_weights(directory, SAFETENSORS_WEIGHTS_NAME)
    state = load_file(directory / SAFETENSORS_WEIGHTS_NAME)
    expected = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    lacking = {PEFT_PREFIX + name.removeprefix(PEFT_PREFIX) for name in expected} - state.keys()
    found = set_peft_model_state_dict(model, state, adapter_name="default")
    if lacking or found.unexpected_keys:
        raise CheckpointError(f"the adapters in {directory} belong to another model than {base_of_adapters(directory)}")


def _inject(config: PeftConfig, model: PreTrainedModel, seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    model.peft_config = {"default": config}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:  # peft gives them the dtype of the base, in which weights that are loaded would be rounded
            parameter.data = parameter.data.float()
