"""Decoding steps whose shapes and memory never change: they can be compiled, on a GPU to CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, StaticLayer

MAX_SHAPES = 4
"""Caches that are kept: a run has one shape, and others where clips are quarantined or captions are greedy."""


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
    """Steps of a decoder, compiled once for each number of rows and positions.

    The cache of such a shape is kept from batch to batch: a CUDA graph replays reads and writes of fixed addresses.
    """

    def __init__(self, stack: PreTrainedModel, *, backend: str = "inductor") -> None:
        on_gpu = next(stack.parameters()).device.type == "cuda"
        mode = "reduce-overhead" if on_gpu and backend == "inductor" else None
        self._step: Callable[..., Any] = torch.compile(
            stack.forward, fullgraph=True, dynamic=False, backend=backend, mode=mode
        )
        self._caches: dict[tuple[int, int], Cache] = {}

    def cache(self, prefilled: Cache, clip_index: Int[Tensor, " batch"], room: int) -> Cache:
        """Return a cache with the prefill of clip `clip_index[i]` in row i, in the memory of the last of its shape."""
        shape = (len(clip_index), prefilled.layers[0].keys.shape[2] + room)
        if shape not in self._caches:
            if len(self._caches) == MAX_SHAPES:
                del self._caches[next(iter(self._caches))]
            self._caches[shape] = Cache(layers=[FixedLayer(max_cache_len=shape[1]) for _ in prefilled.layers])
        cache = self._caches[shape]
        for layer, filled in zip(cache.layers, prefilled.layers, strict=True):
            layer.refill(filled.keys.index_select(0, clip_index), filled.values.index_select(0, clip_index))
        return cache

    def __call__(
        self,
        embedded: Float[Tensor, "batch 1 dim"],
        *,
        attention_mask: Bool[Tensor, "batch 1 1 position"],
        position_ids: Int[Tensor, "batch 1"],
        cache: Cache,
    ) -> Float[Tensor, "batch 1 dim"]:
        """Append one token to every row."""
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
