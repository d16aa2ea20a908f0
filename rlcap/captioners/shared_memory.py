"""Cross-attention of many captions to one memory: keys and values stay one a clip, however many captions read them.

An audio memory is long: 1,500 positions in Whisper's. Repeating its keys and values for each caption of a group, as
`generate()` does, makes reading them the greater part of a decoding step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlcap.errors import RlcapError

SHARED_MEMORY = "rlcap_shared_memory"
"""The name of this attention in transformers; without readers it is the library's own `sdpa`."""


@dataclass(frozen=True, slots=True)
class Readers:
    """Which clip each caption reads, and the captions of a clip in slots."""

    clip_index: Int[Tensor, " batch"]
    slot: Int[Tensor, " batch"]
    num_slots: int

    @classmethod
    def of(cls, clip_index: Int[Tensor, " batch"]) -> Readers:
        """Give each caption the next slot of its clip."""
        order = clip_index.argsort(stable=True)
        counts = torch.unique_consecutive(clip_index[order], return_counts=True)[1]
        firsts = (counts.cumsum(0) - counts).repeat_interleave(counts)
        slot = torch.empty_like(order)
        slot[order] = torch.arange(len(order), device=order.device) - firsts
        return cls(clip_index, slot, int(counts.max()))


_readers: ContextVar[Readers | None] = ContextVar("readers", default=None)


@contextmanager
def shared_memory(readers: Readers | None) -> Iterator[None]:
    """Let attention whose keys are one a clip know which captions read which clip."""
    token = _readers.set(readers)
    try:
        yield
    finally:
        _readers.reset(token)


def shared_memory_attention(
    module: nn.Module,
    query: Float[Tensor, "batch head token dim"],
    key: Float[Tensor, "row head position dim"],
    value: Float[Tensor, "row head position dim"],
    attention_mask: Tensor | None,
    **settings: Any,  # noqa: ANN401 - what models hand through
) -> tuple[Tensor, None]:
    """Attend as `sdpa` does; where there are fewer rows of keys than of queries, those of a clip share one."""
    if query.shape[0] == key.shape[0]:
        attend = _by_products if _is_small_step(module, query) else sdpa_attention_forward
        return attend(module, query, key, value, attention_mask, **settings)
    readers = _readers.get()
    if readers is None:
        raise RlcapError(f"{len(query)} captions met keys of {len(key)} clips, and nothing says who reads which")
    slots = query.new_zeros(key.shape[0], readers.num_slots, *query.shape[1:])
    slots[readers.clip_index, readers.slot] = query  # [C, K, H, 1, D]
    if attention_mask is not None:
        firsts = readers.slot == 0
        per_clip = attention_mask.new_ones(key.shape[0], *attention_mask.shape[1:])
        attention_mask = per_clip.index_copy_(0, readers.clip_index[firsts], attention_mask[firsts])
    # The captions of a clip stand where the tokens of one caption would: they do not read each other here.
    grouped = slots.squeeze(3).transpose(1, 2)  # [C, H, K, D]
    attended, _ = sdpa_attention_forward(
        module, grouped, key, value, attention_mask, **{**settings, "is_causal": False}
    )
    return attended[readers.clip_index, readers.slot].unsqueeze(1), None  # [B, 1, H, D]


def _is_small_step(module: nn.Module, query: Tensor) -> bool:
    """Tell a decoding step on a CPU, where two batched products take a third of the time of the fused kernel."""
    one_token = query.shape[2] == 1 and query.device.type == "cpu" and not query.requires_grad
    return one_token and getattr(module, "num_key_value_groups", 1) == 1


def _by_products(
    module: nn.Module,  # noqa: ARG001 - the library's signature
    query: Float[Tensor, "batch head 1 dim"],
    key: Float[Tensor, "batch head position dim"],
    value: Float[Tensor, "batch head position dim"],
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * scale, key.transpose(2, 3))
    if attention_mask is not None:
        scores = (
            scores.masked_fill(~attention_mask, -torch.inf)
            if attention_mask.dtype == torch.bool
            else scores + attention_mask
        )
    attended = torch.matmul(scores.softmax(dim=-1), value)
    return attended.transpose(1, 2), None


AttentionInterface.register(SHARED_MEMORY, shared_memory_attention)
AttentionMaskInterface.register(SHARED_MEMORY, sdpa_mask)
