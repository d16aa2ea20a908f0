"""The last part of a language model: hidden states to vocabulary scores."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def vocabulary_head(model: PreTrainedModel) -> nn.Module:
    """Return what stands behind the decoder's layers: the output projection, and what some models put before it."""
    projection = model.get_output_embeddings()
    for child in model.children():
        if child is not model.base_model and any(module is projection for module in child.modules()):
            found: nn.Module = child
            return found
    last: nn.Module = projection
    return last
