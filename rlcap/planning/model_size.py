"""How large a captioner is: as declared, or as its directory says, without loading it."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlcap.config.captioner import DecoderTuning
from rlcap.errors import CheckpointError, ConfigError

FLOAT32_BYTES = 4
FEED_FORWARD = 4
"""Width of the feed-forward layer over that of the decoder, where nothing else is known."""
PARAMETER_BYTES = {"BF16": 2, "F16": 2, "F32": 4}
"""By the word of safetensors."""
FLOAT16 = "F16"
SIZE_LIMIT = 100_000_000
"""A longer header of a safetensors file is damage."""


@dataclass(frozen=True, slots=True)
class CaptionerSize:
    """The sizes that memory depends on."""

    parameters: int
    layers: int
    """Of the decoder, as the other sizes below."""
    width: int
    kv_width: int
    """Of the keys (and of the values) of one position: heads for keys times their size."""
    vocabulary: int
    parameter_bytes: int = FLOAT32_BYTES
    """Of one weight, as it is stored, and as a learner keeps what is frozen; what is trained is float32."""
    is_float16: bool = False
    """Whether weights are stored in float16, which CPUs keep in float32."""

    def frozen_bytes(self, *, on_gpu: bool) -> int:
        """Bytes of one weight that a learner does not train."""
        return FLOAT32_BYTES if self.is_float16 and not on_gpu else self.parameter_bytes

    def trainable(self, decoder: DecoderTuning, lora_rank: int) -> int:
        """Parameters that a run trains at most: a frozen encoder counts as well, and adapters as 7 matrices a layer."""
        if decoder is not DecoderTuning.lora:
            return self.parameters
        # Four of the seven map width to width, three map between width and the feed-forward layer.
        ends = 4 * 2 * self.width + 3 * (1 + FEED_FORWARD) * self.width
        return self.layers * lora_rank * ends


def declared_size(
    *,
    parameters: float | None,
    layers: int | None,
    width: int | None,
    kv_width: int | None,
    vocabulary: int | None,
    parameter_bytes: int,
) -> CaptionerSize:
    """Return a size given in numbers. Raises ConfigError where one is missing."""
    given = {"--parameters": parameters, "--layers": layers, "--width": width, "--vocabulary": vocabulary}
    sizes = {name: int(value) for name, value in given.items() if value is not None and value > 0}
    missing = [name for name in given if name not in sizes]
    if missing:
        raise ConfigError(
            f"the size of the captioner is not known: give captioner.checkpoint=DIRECTORY, or {', '.join(missing)}"
        )
    if parameter_bytes not in PARAMETER_BYTES.values():
        raise ConfigError(f"--parameter-bytes must be 2 or 4, got {parameter_bytes}")
    return CaptionerSize(
        sizes["--parameters"],
        sizes["--layers"],
        sizes["--width"],
        kv_width or sizes["--width"],
        sizes["--vocabulary"],
        parameter_bytes,
    )


def read_size(directory: Path) -> CaptionerSize:
    """Return the size of a captioner directory from its configs and the headers of its weights.

    Raises:
        CheckpointError: they do not tell.
    """
    configs = [_read_json(path) for path in (directory / "language_model" / "config.json", directory / "config.json")]
    sections = [section for config in configs for section in _sections(config)]
    try:
        layers = _first(sections, "num_hidden_layers", "decoder_layers", "n_layer")
        width = _first(sections, "hidden_size", "d_model", "n_embd")
        heads = _first(sections, "num_attention_heads", "decoder_attention_heads", "n_head")
        kv_heads = next((section["num_key_value_heads"] for section in sections if "num_key_value_heads" in section), 0)
        vocabulary = _first(sections, "vocab_size")
    except KeyError as missing:
        raise CheckpointError(
            f"{directory} does not say its {missing.args[0]}: give --parameters, --layers, --width and --vocabulary"
        ) from missing
    counts: Counter[str] = Counter()
    for path in sorted(directory.rglob("*.safetensors")):
        counts += _count_parameters(path)
    if not counts:
        raise CheckpointError(f"{directory} holds no weights in safetensors files: give --parameters and the like")
    word = counts.most_common(1)[0][0]
    stored = PARAMETER_BYTES.get(word, FLOAT32_BYTES)
    kv_width = width * (int(kv_heads) or heads) // heads
    return CaptionerSize(counts.total(), layers, width, kv_width, vocabulary, stored, word == FLOAT16)


def _sections(config: Mapping[str, object]) -> Iterator[Mapping[str, int]]:
    """The parts of a config that may describe the decoder, the likeliest first."""
    for name in ("text_config", "decoder"):
        nested = config.get(name)
        if isinstance(nested, Mapping):
            yield nested
    yield config  # type: ignore[misc] # numbers are looked up by name, and nothing else is


def _first(sections: list[Mapping[str, int]], *names: str) -> int:
    for section in sections:
        for name in names:
            if name in section:
                return int(section[name])
    raise KeyError(names[0])


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        plain = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as damage:
        raise CheckpointError(f"{path} is no JSON: {damage}") from damage
    return plain if isinstance(plain, dict) else {}


def _count_parameters(path: Path) -> Counter[str]:
    """Count the numbers of each kind in a safetensors file by its header: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if length > SIZE_LIMIT:
            raise CheckpointError(f"{path} is damaged: its header is said to take {length} bytes")
        try:
            header = json.loads(file.read(length))
        except ValueError as damage:
            raise CheckpointError(f"{path} is damaged: its header is no JSON") from damage
    counts: Counter[str] = Counter()
    for name, tensor in header.items():
        if name != "__metadata__":
            counts[tensor["dtype"]] += math.prod(tensor["shape"])
    return counts
