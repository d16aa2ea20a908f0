"""Captioners whose captions are written by a decoder of transformers."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlcap.captioners.captioner import Encoding
from rlcap.captioners.decoder import Context, DecoderRows, FixedRows, TransformersDecoder
from rlcap.captioners.tuned_captioner import TunedCaptioner


class DecoderCaptioner(TunedCaptioner):
    """A captioner that sets `_decoder`, and says what that writes behind."""

    _decoder: TransformersDecoder

    def context(self, encoding: Encoding) -> Context:
        """What the captions of these clips are written behind: the encoding itself, unless a family says otherwise."""
        return Context(encoding.states, encoding.mask)

    def compile_steps(self, backend: str = "inductor") -> None:
        """Compile `step`, with shapes that never change."""
        self._decoder.compile_steps(backend)
        self.steps_are_compiled = True

    def begin(
        self, encoding: Encoding, clip_index: Int[Tensor, " batch"], max_new_tokens: int
    ) -> tuple[DecoderRows | FixedRows, Float[Tensor, "batch dim"]]:
        """Read each clip once. Raises CheckpointError where captions are longer than the positions known."""
        return self._decoder.begin(self.context(encoding), clip_index, max_new_tokens)

    def longest_caption(self, encoding: Encoding) -> int | None:
        """Return how many tokens a caption of these clips may have; None where positions have no end."""
        return self._decoder.room_behind(self.context(encoding))

    def step(self, state: DecoderRows | FixedRows, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """Append one token to every row."""
        return self._decoder.step(state, tokens)

    def hidden_states(
        self,
        encoding: Encoding,
        clip_index: Int[Tensor, " batch"],
        tokens: Int[Tensor, "batch token"],
        action_mask: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "valid dim"]:
        """Teacher-force; each clip is read once here too."""
        return self._decoder.hidden_states(self.context(encoding), clip_index, tokens, action_mask)
