"""Writing and scoring captions with any decoder of transformers, alone or with cross-attention to a memory.

Sampling keeps a key-value cache with a row a caption, prefilled once a clip. Scoring reads all captions of a clip side
by side in one pass, without a cache.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer

from rlcap.captioners.compiled_steps import CompiledSteps, bucket
from rlcap.captioners.kv_cache import PreallocatedCache, select_clips, with_shared_memory
from rlcap.captioners.packing import Layout, gather_scored, in_order, lay_out, number_tokens, of_like_length
from rlcap.captioners.shared_memory import SHARED_MEMORY, Readers, shared_memory
from rlcap.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Context:
    """What the captions of C clips are written behind."""

    prefix: Float[Tensor, "clip position dim"]
    """Vectors in front of the caption, right-padded."""
    prefix_mask: Bool[Tensor, "clip position"] | None = None
    """False on padding; None where there is none."""
    memory: Float[Tensor, "clip frame dim"] | None = None
    """What cross-attention reads; None for decoders without."""
    memory_mask: Bool[Tensor, "clip frame"] | None = None

    @property
    def prefix_lengths(self) -> Int[Tensor, " clip"]:
        """Number of vectors that are not padding."""
        num_clips, longest = self.prefix.shape[:2]
        if self.prefix_mask is None:
            return torch.full((num_clips,), longest, device=self.prefix.device)
        return self.prefix_mask.sum(dim=1)


@dataclass(slots=True)
class DecoderRows:
    """The growing captions of B rollouts: their cache, and what they see of their clips."""

    cache: PreallocatedCache
    seen: Cache
    """The cache as the model takes it: with a memory's keys and values beside `cache`."""
    next_positions: Int[Tensor, "batch 1"]
    attention_mask: Bool[Tensor, "batch position"] | None
    """Over prefix and caption; None where no prefix is padded."""
    context: Context
    clip_index: Int[Tensor, " batch"]
    readers: Readers | None = None
    """None for decoders without a memory."""

    can_shrink: ClassVar[bool] = True

    def select_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows."""
        self.cache.select_rows(rows)
        self.next_positions = self.next_positions[rows]
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask[rows]
        self.read_clips(self.clip_index[rows])

    def read_clips(self, clip_index: Int[Tensor, " batch"]) -> None:
        """Note which clip each row reads the memory of.

        Attention tells a memory from a row's own keys by the number of rows: where there are as many captions as
        clips, each caption gets the memory of its clip in its own place.
        """
        self.clip_index = clip_index
        if not isinstance(self.seen, EncoderDecoderCache):
            return
        own_places = torch.arange(len(clip_index), device=clip_index.device)
        if len(clip_index) == len(self.context.prefix) and not torch.equal(clip_index, own_places):
            self.context = _of_rows(self.context, clip_index)
            select_clips(self.seen, clip_index)
            self.clip_index = own_places
        self.readers = Readers.of(self.clip_index)


@dataclass(slots=True)
class FixedRows:
    """The growing captions of B rollouts whose rows and positions stay as they are, for compiled steps.

    Rows behind the captions, and positions behind the longest caption, fill the shape up to its bucket.
    """

    num_captions: int
    cache: Cache
    next_positions: Int[Tensor, "row 1"]
    attention_mask: Bool[Tensor, "row 1 1 position"]
    """True on the prefix and on what has been written, one column more at each step."""
    next_column: Int[Tensor, " 1"]
    can_shrink: ClassVar[bool] = False


class TransformersDecoder:
    """A decoder stack and its token embedding, borrowed from a captioner."""

    def __init__(
        self,
        stack: PreTrainedModel,
        embed_tokens: nn.Module,
        *,
        checkpoint_layers: bool = False,
        keep_attention: bool = False,
    ) -> None:
        """Borrow; with `keep_attention` the stack attends in its own way, and no masks of ours reach it."""
        self._stack = stack
        self._embed_tokens = embed_tokens
        self._knows_positions = "position_ids" in inspect.signature(stack.forward).parameters
        self._stands_side_by_side = self._knows_positions and not keep_attention
        if not keep_attention:
            stack.config._attn_implementation = SHARED_MEMORY
        self._compiled: CompiledSteps | None = None
        if checkpoint_layers:
            _checkpoint_layers(stack)

    def compile_steps(self, backend: str) -> None:
        """Take compiled steps of fixed shapes from now on. Raises CheckpointError where masks of ours do not reach."""
        if not self._stands_side_by_side:
            raise CheckpointError(
                f"the steps of a {self._stack.config.model_type} cannot be compiled: it counts positions or masks by "
                "itself; set sampling.compile=false"
            )
        self._compiled = CompiledSteps(self._stack, backend=backend)

    def begin(
        self, context: Context, clip_index: Int[Tensor, " batch"], max_new_tokens: int
    ) -> tuple[DecoderRows | FixedRows, Float[Tensor, "batch dim"]]:
        """Read prefix and memory once per clip, then give every rollout a row.

        Raises:
            CheckpointError: the decoder has no positions for captions of that length.
        """
        self._check_room(context, max_new_tokens)
        lengths = context.prefix_lengths
        prefilled = self._empty_cache(context)
        hidden = self._run(
            context,
            context.prefix,
            attention_mask=context.prefix_mask,
            position_ids=torch.arange(context.prefix.shape[1], device=lengths.device)[None],
            past_key_values=prefilled,
            use_cache=True,
        )
        last = hidden[torch.arange(len(lengths), device=lengths.device), lengths - 1].index_select(0, clip_index)
        if self._compiled is not None:
            return self._fixed_rows(self._compiled, context, prefilled, clip_index, max_new_tokens), last
        own = prefilled.self_attention_cache if isinstance(prefilled, EncoderDecoderCache) else prefilled
        cache = PreallocatedCache(own, clip_index, room=max_new_tokens)
        mask = context.prefix_mask
        if mask is not None:
            mask = torch.cat([mask[clip_index], mask.new_ones(len(clip_index), max_new_tokens)], dim=1)
        rows = DecoderRows(
            cache=cache,
            seen=with_shared_memory(cache, prefilled) if isinstance(prefilled, EncoderDecoderCache) else cache,
            next_positions=lengths[clip_index][:, None],
            attention_mask=mask,
            context=context,
            clip_index=clip_index,
        )
        rows.read_clips(clip_index)
        return rows, last

    def step(self, rows: DecoderRows | FixedRows, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """Append one token to every row."""
        if isinstance(rows, FixedRows):
            return self._compiled_step(rows, tokens)
        mask = rows.attention_mask
        with shared_memory(rows.readers):
            hidden = self._run(
                _for_step(rows.context, rows.clip_index),
                self._embed_tokens(tokens).unsqueeze(1),
                attention_mask=None if mask is None else mask[:, : rows.cache.get_seq_length() + 1],
                position_ids=rows.next_positions,
                past_key_values=rows.seen,
                use_cache=True,
            )
        rows.next_positions = rows.next_positions + 1
        return hidden[:, 0]

    @staticmethod
    def _fixed_rows(
        compiled: CompiledSteps, context: Context, prefilled: Cache, clip_index: Int[Tensor, " batch"], room: int
    ) -> FixedRows:
        num_clips, longest = context.prefix.shape[:2]
        mask = context.prefix_mask
        seen = context.prefix.new_ones(num_clips, longest, dtype=torch.bool) if mask is None else mask
        clips, num_positions = compiled.fill_rows(clip_index), bucket(longest + room)
        unwritten = seen.new_zeros(len(clips), num_positions - longest)
        return FixedRows(
            num_captions=len(clip_index),
            cache=compiled.cache(prefilled, clips, num_positions),
            next_positions=context.prefix_lengths[clips][:, None],
            attention_mask=torch.cat([seen[clips], unwritten], dim=1)[:, None, None],
            next_column=torch.tensor([longest], device=clip_index.device),
        )

    def _compiled_step(self, rows: FixedRows, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        assert self._compiled is not None, "rows of fixed shape come from compiled steps alone"
        rows.attention_mask.index_fill_(-1, rows.next_column, value=True)
        of_all_rows = nn.functional.pad(tokens, (0, len(rows.next_positions) - rows.num_captions))
        hidden = self._compiled(
            self._embed_tokens(of_all_rows).unsqueeze(1),
            attention_mask=rows.attention_mask,
            position_ids=rows.next_positions,
            cache=rows.cache,
        )
        rows.next_positions = rows.next_positions + 1
        rows.next_column = rows.next_column + 1
        return hidden[: rows.num_captions, 0]

    def hidden_states(
        self,
        context: Context,
        clip_index: Int[Tensor, " batch"],
        tokens: Int[Tensor, "batch token"],
        action_mask: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "valid dim"]:
        """Teacher-force; row n of the result predicts the n-th valid token."""
        if not self._stands_side_by_side:
            return self._one_caption_a_row(context, clip_index, tokens, action_mask)
        layouts = lay_out(context.prefix_lengths, clip_index, action_mask)
        return gather_scored([(layout, self._read(layout, context, tokens)) for layout in layouts], action_mask)

    def _read(
        self, layout: Layout, context: Context, tokens: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "row position dim"]:
        prefix = context.prefix[layout.clips, : layout.num_positions]
        room = prefix.new_zeros(len(prefix), layout.num_positions - prefix.shape[1], prefix.shape[2])
        written = self._embed_tokens(tokens[layout.read_tokens]).to(prefix.dtype)
        embedded = torch.cat([prefix, room], dim=1).index_put((layout.token_rows, layout.token_columns), written)
        return self._run(
            _of_rows(context, layout.clips),
            embedded,
            attention_mask=layout.attention_mask,
            position_ids=layout.position_ids,
            use_cache=False,
        )

    def _one_caption_a_row(
        self,
        context: Context,
        clip_index: Int[Tensor, " batch"],
        tokens: Int[Tensor, "batch token"],
        action_mask: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "valid dim"]:
        """Score with decoders that count positions or mask themselves: captions cannot stand side by side there."""
        num_read = (action_mask.sum(dim=1) - 1).clamp(min=0)
        lengths = context.prefix_lengths[clip_index] + num_read
        numbers = number_tokens(action_mask)
        found, places = [], []
        for alike in of_like_length(lengths, torch.arange(len(lengths), device=lengths.device)):
            rows = alike.sort().values
            mine, longest = _of_rows(context, clip_index[rows]), int(num_read[rows].max())
            written = self._embed_tokens(tokens[rows, :longest]).to(mine.prefix.dtype)
            hidden = self._run(mine, torch.cat([mine.prefix, written], dim=1), attention_mask=None, use_cache=False)
            scored = action_mask[rows, : longest + 1]
            found.append(hidden[:, mine.prefix.shape[1] - 1 :][scored])
            places.append(numbers[rows, : longest + 1][scored])
        return in_order(found, places)

    def _run(
        self,
        context: Context,
        embedded: Float[Tensor, "row token dim"],
        **settings: Any,  # noqa: ANN401
    ) -> Float[Tensor, "row token dim"]:
        if not self._knows_positions:
            settings.pop("position_ids", None)
        if context.memory is not None:
            settings["encoder_hidden_states"] = context.memory
        if context.memory_mask is not None:
            settings["encoder_attention_mask"] = context.memory_mask
        # A prefix out of float32 masters meets a frozen decoder in the precision of its checkpoint.
        embedded = embedded.to(next(self._embed_tokens.parameters()).dtype)
        hidden: Tensor = self._stack(inputs_embeds=embedded, **settings).last_hidden_state
        return hidden

    @staticmethod
    def _empty_cache(context: Context) -> Cache:
        return DynamicCache() if context.memory is None else EncoderDecoderCache(DynamicCache(), DynamicCache())

    def room_behind(self, context: Context) -> int | None:
        """Return how many tokens there are positions for behind any of these clips; None where they have no end."""
        config = self._stack.config
        positions = getattr(config, "max_target_positions", None) or getattr(config, "max_position_embeddings", None)
        return None if positions is None else int(positions) - context.prefix.shape[1]

    def _check_room(self, context: Context, max_new_tokens: int) -> None:
        room = self.room_behind(context)
        if room is not None and max_new_tokens > room:
            raise CheckpointError(
                f"this captioner writes captions of at most {room} tokens, got max_new_tokens = {max_new_tokens}: "
                "set sampling.max_new_tokens, or take another captioner"
            )


def _of_rows(context: Context, clips: Int[Tensor, " row"]) -> Context:
    """Return what each row sees."""
    return Context(
        prefix=context.prefix[clips],
        memory=None if context.memory is None else context.memory[clips],
        memory_mask=None if context.memory_mask is None else context.memory_mask[clips],
    )


def _for_step(context: Context, clip_index: Int[Tensor, " batch"]) -> Context:
    """Return what a step is told of the memory: its keys and values are cached, and only its size matters."""
    if context.memory is None:
        return context
    return Context(
        prefix=context.prefix,
        memory=context.memory[:1].expand(len(clip_index), -1, -1),
        memory_mask=None if context.memory_mask is None else context.memory_mask[clip_index],
    )


def _checkpoint_layers(stack: nn.Module) -> None:
    """Keep no activations inside layers: the backward pass computes them again.

    The library's own way of doing so acts in training mode only, and would bring dropout with it.
    """
    for layer in stack.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
