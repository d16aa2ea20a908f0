"""How fast supervised fine-tuning moves what it trains: by where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from torch import nn

from rlcap.config.captioner import ADAPTERS_RATE, NEW_RATE, PRETRAINED_RATE
from rlcap.errors import RlcapError

EVERYTHING = ("",)
"""Names the whole captioner where names of its modules are asked for."""


class Origin(Enum):
    """Where trained weights come from; the value is the learning rate that suits them."""

    new = NEW_RATE
    adapters = ADAPTERS_RATE
    pretrained = PRETRAINED_RATE


def parameter_groups(captioner: nn.Module, learning_rate: float, pretrained: Sequence[str]) -> list[dict[str, Any]]:
    """Return the trainable parameters for an optimiser, with a learning rate for each origin that occurs.

    Args:
        captioner: its critic is left out; captions teach it nothing.
        learning_rate: of all of them; 0: of each origin its own.
        pretrained: modules of the captioner that come from a checkpoint; what is no adapter and below none of them
            is new.

    Raises:
        RlcapError: If there is nothing to train.
    """
    found: dict[Origin, list[nn.Parameter]] = {}
    for name, parameter in captioner.named_parameters():
        if parameter.requires_grad and not name.startswith("value_head."):
            found.setdefault(_origin(name, pretrained), []).append(parameter)
    if not found:
        raise RlcapError("the captioner has no trainable parameter: unfreeze a part of it, or add adapters")
    return [{"params": parameters, "lr": learning_rate or origin.value} for origin, parameters in found.items()]


def _origin(name: str, pretrained: Sequence[str]) -> Origin:
    if "lora_" in name:
        return Origin.adapters
    is_pretrained = any(not module or name.startswith(f"{module}.") for module in pretrained)
    return Origin.pretrained if is_pretrained else Origin.new
