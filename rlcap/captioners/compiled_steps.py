"""Decoding steps whose shapes and memory never change: they can be compiled, on a GPU to CUDA graphs.

Prefixes differ in length from batch to batch, and clips that cannot be used leave fewer rows. Rows and positions are
rounded up to buckets, so that a run compiles a few shapes and not one for each batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, StaticLayer

MAX_CACHES = 4
"""Caches that are kept: a run has few shapes, and a cache is made faster than a step is compiled."""
MAX_COMPILED = 256
"""Shapes that may be compiled, where torch stops at 8."""
BUCKETS_AN_OCTAVE = 4
"""Between a number and its double: nothing grows by more than a quarter, and common sizes stay as they are."""
SMALLEST_STEP = 4
"""Between two buckets."""


def bucket(size: int) -> int:
    """Round a number of rows or positions up to its bucket."""
    octave_end = 1 << max(0, size - 1).bit_length()
    step = max(SMALLEST_STEP, octave_end // (2 * BUCKETS_AN_OCTAVE))
    return -(-size // step) * step


class FixedLayer(StaticLayer):
    """One layer's keys and values, `[row, head, position, dim]`; a step reads all of it, masked behind the caption."""

    def refill(self, keys: Float[Tensor, "row head used dim"], values: Float[Tensor, "row head used dim"]) -> None:
        """Begin anew behind a prefix, in the same memory."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        used = keys.shape[2]
        self.keys[:, :, :used] = keys
        self.values[:, :, :used] = values
        self.cumulative_length.fill_(used)


class CompiledSteps:
    """Steps of a decoder, compiled once for each bucket of rows and of positions.

    The cache of such a shape is kept from batch to batch: a CUDA graph replays reads and writes of fixed addresses.
    """

    def __init__(self, stack: PreTrainedModel, *, backend: str = "inductor") -> None:
        on_gpu = next(stack.parameters()).device.type == "cuda"
        mode = "reduce-overhead" if on_gpu and backend == "inductor" else None
        self._step: Callable[..., Any] = torch.compile(
            stack.forward, fullgraph=True, dynamic=False, backend=backend, mode=mode
        )
        self._caches: dict[tuple[int, int], Cache] = {}

    @staticmethod
    def fill_rows(clip_index: Int[Tensor, " batch"]) -> Int[Tensor, " row"]:
        """Add rows that no caption is read from, up to the bucket."""
        return nn.functional.pad(clip_index, (0, bucket(len(clip_index)) - len(clip_index)))

    def cache(self, prefilled: Cache, clip_index: Int[Tensor, " row"], num_positions: int) -> Cache:
        """Return a cache with the prefill of clip `clip_index[i]` in row i, in the memory of the last of its shape."""
        shape = (len(clip_index), num_positions)
        if shape not in self._caches:
            if len(self._caches) == MAX_CACHES:
                del self._caches[next(iter(self._caches))]
            self._caches[shape] = Cache(layers=[FixedLayer(max_cache_len=num_positions) for _ in prefilled.layers])
        cache = self._caches[shape]
        for layer, filled in zip(cache.layers, prefilled.layers, strict=True):
            layer.refill(filled.keys.index_select(0, clip_index), filled.values.index_select(0, clip_index))
        return cache

    def __call__(
        self,
        embedded: Float[Tensor, "row 1 dim"],
        *,
        attention_mask: Bool[Tensor, "row 1 1 position"],
        position_ids: Int[Tensor, "row 1"],
        cache: Cache,
    ) -> Float[Tensor, "row 1 dim"]:
        """Append one token to every row."""
        with torch._dynamo.config.patch(recompile_limit=MAX_COMPILED):
            found = self._step(
                inputs_embeds=embedded,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
        # The next replay of a CUDA graph overwrites what this one returned.
        last: Tensor = found.last_hidden_state
        return last.clone()
