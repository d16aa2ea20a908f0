"""What lies in the directory of a checkpoint that was made elsewhere, and what libraries make of it, in sentences."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from rlcap.errors import CheckpointError, in_one_line

CONFIG_FILE = "config.json"
MODEL_WEIGHTS, ADAPTER_WEIGHTS = "model.safetensors", "adapter_model.safetensors"
PICKLES: Mapping[str, str] = {MODEL_WEIGHTS: "pytorch_model*.bin", ADAPTER_WEIGHTS: "adapter_model*.bin"}
"""What older libraries wrote instead of each safetensors file."""
CONVERSION = (
    "import glob, torch; from safetensors.torch import save_file; "
    "save_file({{name: tensor.clone().contiguous() for file in glob.glob('{pickles}') "
    "for name, tensor in torch.load(file, map_location='cpu', weights_only=True).items()}}, "
    "'{weights}', metadata={{'format': 'pt'}})"
)
"""Reads tensors alone; tied ones become copies, which loading ties again."""
LONGEST_REASON = 300
"""Characters: some messages list every model that there is."""
OWN_CODE = "it brings code of its own (auto_map), and rlcap runs no code of a checkpoint"


def check_directory(directory: Path) -> None:
    """Refuse what is no directory. Raises CheckpointError."""
    if not directory.exists():
        raise CheckpointError(f"{directory} does not exist")
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is a file: give the directory of the checkpoint")


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping. Raises CheckpointError where there is none, or it is damaged."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as damage:
        raise CheckpointError(f"{path} cannot be read: {in_one_line(damage)}") from damage
    if not isinstance(plain, dict):
        raise CheckpointError(f"{path} holds a {type(plain).__name__} where a JSON object is expected")
    return plain


def check_weights(directory: Path, weights: str) -> None:
    """Refuse a directory without safetensors, whole or in shards; pickles beside them are left alone.

    Raises:
        CheckpointError: says how pickles are converted, where there are only those.
    """
    if (directory / weights).is_file() or (directory / f"{weights}.index.json").is_file():
        return
    if next(directory.glob(PICKLES[weights]), None) is None:
        raise CheckpointError(f"{directory} holds no weights: {weights} is missing there")
    code = CONVERSION.format(pickles=PICKLES[weights], weights=weights)
    raise CheckpointError(
        f"{directory} holds its weights as a pickle ({PICKLES[weights]}), which rlcap never reads; convert them once: "
        f'cd {shlex.quote(str(directory))} && {shlex.quote(sys.executable)} -c "{code}"'
    )


@contextmanager
def in_a_sentence(what: str) -> Iterator[None]:
    """Turn whatever goes wrong in here into a CheckpointError, `<what>: <reason>`; those that are one already stay."""
    try:
        yield
    except CheckpointError:
        raise
    # What transformers, tokenizers, peft, safetensors and jinja raise at damaged files has no class in common, and
    # tokenizers raises bare Exceptions.
    except Exception as fault:
        raise CheckpointError(f"{what}: {_reason(fault)}") from fault


def _reason(fault: Exception) -> str:
    if "trust_remote_code" in str(fault):
        return OWN_CODE
    text = shorten(in_one_line(fault), LONGEST_REASON, placeholder=" ...")
    return text if text and isinstance(fault, OSError | ValueError) else f"{type(fault).__name__}: {text}"
