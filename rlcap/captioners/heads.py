"""The last part of a language model: hidden states to vocabulary scores."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
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


def vocabulary_scores(model: PreTrainedModel, hidden: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
    """Compute the scores of a language model, with what some do to them at last."""
    scores: Tensor = vocabulary_head(model)(hidden)
    config = model.config
    if factor := getattr(config, "logit_scale", None):  # Cohere
        scores = scores * factor
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        scores = scores / divisor
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        scores = cap * torch.tanh(scores / cap)
    return scores
