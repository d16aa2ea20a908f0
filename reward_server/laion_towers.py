"""The towers of laion_clap's checkpoints: HTSAT hears, RoBERTa reads (Wu et al., 2023)."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from transformers import RobertaConfig, RobertaModel

from reward_server import laion_parts
from rlcap.errors import CheckpointError, in_one_line

AUDIO_MODELS = {96: "HTSAT-tiny", 128: "HTSAT-base", 256: "HTSAT-large"}
"""laion_clap's names of HTSAT by the width of its first stage."""
UNUSED = ("audio_transform.", "text_transform.", "logit_scale_")
"""Weights of the training loss, which no embedding goes through."""


@dataclass(frozen=True, slots=True)
class LaionShape:
    """What fixes the architecture; all of it can be seen in the weights."""

    audio_model: str
    is_fused: bool
    embedding_dim: int
    vocab_size: int
    max_positions: int
    text_width: int
    num_text_layers: int
    text_hidden_size: int

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> LaionShape:
        """Read the shape off the weights. Raises KeyError where they are of another architecture."""
        text = "text_branch.embeddings"
        layers = {name.split(".")[3] for name in weights if name.startswith("text_branch.encoder.layer.")}
        vocab_size, text_width = weights[f"{text}.word_embeddings.weight"].shape
        return cls(
            audio_model=AUDIO_MODELS[len(weights["audio_branch.patch_embed.proj.weight"])],
            is_fused="audio_branch.patch_embed.mel_conv2d.weight" in weights,
            embedding_dim=len(weights["text_projection.2.weight"]),
            vocab_size=vocab_size,
            max_positions=len(weights[f"{text}.position_embeddings.weight"]),
            text_width=text_width,
            num_text_layers=len(layers),
            text_hidden_size=len(weights["text_branch.encoder.layer.0.intermediate.dense.weight"]),
        )


class LaionTowers(nn.Module):
    """What laion_clap's `CLAP` embeds with, under its names of weights; what only training uses is left out."""

    def __init__(self, shape: LaionShape) -> None:
        super().__init__()
        self.shape = shape
        htsat = _import_htsat()
        settings_path = Path(laion_parts.__path__[0]) / "model_configs" / f"{shape.audio_model}.json"
        settings = json.loads(settings_path.read_text(encoding="utf-8"))
        self.audio_settings: dict[str, Any] = settings["audio_cfg"]
        fusion_type = "aff_2d" if shape.is_fused else "None"
        # The initial weights are all replaced, and must not move the global generator.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
            self.audio_branch = htsat.create_htsat_model(
                SimpleNamespace(**self.audio_settings), shape.is_fused, fusion_type
            )
            self.text_branch = RobertaModel(_roberta_config(shape))
            self.audio_projection = _projection(settings["embed_dim"], shape.embedding_dim)
            self.text_projection = _projection(shape.text_width, shape.embedding_dim)

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def embed_audio(self, heard: dict[str, Tensor]) -> Float[Tensor, "clip dim"]:
        """Embed one or more `waveform`s, or `mel_fusion`s of which some are `longer`; rows have length 1."""
        device = self._device
        hidden = self.audio_branch({name: part.to(device) for name, part in heard.items()}, device=device)["embedding"]
        return functional.normalize(self.audio_projection(hidden), dim=-1)

    def embed_tokens(
        self, token_ids: Int64[Tensor, "caption token"], mask: Int64[Tensor, "caption token"]
    ) -> Float[Tensor, "caption dim"]:
        """Embed captions; rows have length 1."""
        hidden = self.text_branch(
            input_ids=token_ids.to(self._device), attention_mask=mask.to(self._device)
        ).pooler_output
        return functional.normalize(self.text_projection(hidden), dim=-1)


class _Ignored:
    """Stands for the numpy numbers in an optimiser's state, so that nothing of numpy is built from a file."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


NUMPY_NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights of both towers in a `.pt` file of laion_clap, named as in `LaionTowers`.

    Raises:
        CheckpointError: the file is missing, damaged, holds more than weights and numbers, or no such towers.
    """
    try:
        with torch.serialization.safe_globals([(_Ignored, name) for name in NUMPY_NUMBERS]):
            # Mapped, since more than half of a released file is the optimiser's.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError, UnpicklingError) as error:
        raise CheckpointError(f"{path} is no readable checkpoint of laion_clap: {in_one_line(error)}") from error
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} is no checkpoint of laion_clap: it holds no state_dict of tensors")
    named = {str(name).removeprefix("module."): value for name, value in content.items()}
    # Checkpoints from before transformers 4.31 hold position_ids, which are no weights.
    named.pop("text_branch.embeddings.position_ids", None)
    return {name: value for name, value in named.items() if not name.startswith(UNUSED)}


def _roberta_config(shape: LaionShape) -> RobertaConfig:
    """As roberta-base, whose heads have 64 channels."""
    return RobertaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.text_width,
        num_hidden_layers=shape.num_text_layers,
        num_attention_heads=shape.text_width // 64,
        intermediate_size=shape.text_hidden_size,
        max_position_embeddings=shape.max_positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )


def _projection(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim))


def _import_htsat() -> ModuleType:
    try:
        return importlib.import_module(f"{laion_parts.__name__}.htsat")
    except ImportError as error:
        raise CheckpointError(
            "checkpoints of laion_clap need its package, which cannot be imported "
            f"({in_one_line(error)}): pip install rlcap[laion]"
        ) from error
