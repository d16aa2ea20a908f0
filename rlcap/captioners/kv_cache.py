"""A key-value cache whose room is taken once, for transformers models."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values, `[batch, head, position, dim]`, written in place as the caption grows.

    `DynamicLayer` copies the whole cache at every token; this one writes one column and hands out views.
    """

    def __init__(
        self, keys: Float[Tensor, "row head used dim"], values: Float[Tensor, "row head used dim"], room: int
    ) -> None:
        super().__init__()
        rows, heads, used, dim = keys.shape
        self.dtype, self.device = keys.dtype, keys.device
        self._key_room = keys.new_empty(rows, heads, used + room, dim)
        self._value_room = values.new_empty(rows, heads, used + room, values.shape[-1])
        self._key_room[:, :, :used] = keys
        self._value_room[:, :, :used] = values
        self._used = used
        self.is_initialized = True
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append `[batch, head, 1.., dim]` states; return views of all states so far."""
        end = self._used + key_states.shape[-2]
        self._key_room[:, :, self._used : end] = key_states
        self._value_room[:, :, self._used : end] = value_states
        self._used = end
        self._show()
        return self.keys, self.values

    def select_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the batch."""
        self._key_room = self._key_room.index_select(0, rows)
        self._value_room = self._value_room.index_select(0, rows)
        self._show()

    def _show(self) -> None:
        self.keys = self._key_room[:, :, : self._used]
        self.values = self._value_room[:, :, : self._used]


class PreallocatedCache(Cache):
    """The cache of a group: prefilled once per clip, then one row a rollout."""

    def __init__(self, prefilled: Cache, clip_index: Int[Tensor, " batch"], room: int) -> None:
        """Copy the prefill of clip `clip_index[i]` into row i, with `room` positions to grow."""
        layers = [
            PreallocatedLayer(layer.keys.index_select(0, clip_index), layer.values.index_select(0, clip_index), room)
            for layer in prefilled.layers
        ]
        super().__init__(layers=layers)

    def select_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows: finished captions leave the batch."""
        for layer in self.layers:
            layer.select_rows(rows)


def with_shared_memory(own: PreallocatedCache, prefilled: EncoderDecoderCache) -> EncoderDecoderCache:
    """Put the rows of a group beside the cross-attention's keys and values, which stay one a clip."""
    # The library takes the cross-attention for filled where its cache holds anything.
    return EncoderDecoderCache(own, prefilled.cross_attention_cache)


def select_clips(seen: EncoderDecoderCache, clips: Int[Tensor, " kept"]) -> None:
    """Keep the cross-attention's keys and values of these clips, in this order."""
    for layer in seen.cross_attention_cache.layers:
        layer.keys, layer.values = layer.keys.index_select(0, clips), layer.values.index_select(0, clips)
