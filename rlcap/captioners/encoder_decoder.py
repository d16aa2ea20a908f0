"""Encoder-decoder captioners: Whisper's family, and `SpeechEncoderDecoderModel`.

Whisper: Radford et al. (2023), which hears the first 30 s of a clip; as a captioner: Kadlčík et al. (2023), whose
captions begin with a prompt such as "clotho > caption: ".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import (
    AutoFeatureExtractor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    ProcessorMixin,
    SpeechEncoderDecoderModel,
    Wav2Vec2Processor,
    WhisperForConditionalGeneration,
)

from rlcap.audio.resampling import resample
from rlcap.captioners.captioner import Encoding
from rlcap.captioners.decoder import Context
from rlcap.captioners.heads import vocabulary_head
from rlcap.captioners.hf_checkpoints import read_part
from rlcap.captioners.pretrained import PretrainedCaptioner
from rlcap.captioners.tuned_parts import TunedParts
from rlcap.errors import CheckpointError
from rlcap.types import Clip, PolicyFeatures


class EncoderDecoderCaptioner(PretrainedCaptioner):
    """The encoder hears a clip once; the decoder reads its states by cross-attention."""

    family = "encoder_decoder"
    models: ClassVar[Mapping[str, type[PreTrainedModel]]] = {
        "whisper": WhisperForConditionalGeneration,
        "speech-encoder-decoder": SpeechEncoderDecoderModel,
    }

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, parts: TunedParts) -> None:
        super().__init__(model, processor, parts)
        self._head = [vocabulary_head(model if self._is_whisper else model.decoder)]  # in a list: not a submodule
        self._prompt_ids = self._find_prompt_ids()
        self.forbidden_tokens = tuple(model.generation_config.suppress_tokens or ())
        self.forbidden_first_tokens = tuple(model.generation_config.begin_suppress_tokens or ())

    @property
    def encoder(self) -> nn.Module:
        """What hears the audio."""
        encoder: nn.Module = self.model.get_encoder()
        return encoder

    @property
    def decoder_stack(self) -> PreTrainedModel:
        """The decoder's layers."""
        stack: PreTrainedModel = self.model.model.decoder if self._is_whisper else self.model.decoder.base_model
        return getattr(stack, "decoder", stack)  # BART's stands in a wrapper of its own

    @property
    def token_embedding(self) -> nn.Module:
        """Tokens to vectors."""
        embedding: nn.Module = self.decoder_stack.get_input_embeddings()
        return embedding

    def tune(self) -> None:
        """Leave to be trained what the settings say, but for what stands in for masked frames: nothing is masked."""
        super().tune()
        for name, parameter in self.encoder.named_parameters():
            if name.endswith("masked_spec_embed"):
                parameter.requires_grad_(False)

    def features(self, clips: Sequence[Clip]) -> PolicyFeatures:
        """Compute what the feature extractor makes of each clip, or what a frozen encoder hears in it."""
        extract = self.processor.feature_extractor
        rows = []
        for clip in clips:
            waveform = resample(clip.waveform, clip.sample_rate_hz, extract.sampling_rate)
            found = extract(waveform, sampling_rate=extract.sampling_rate, return_tensors="np")
            (name,) = {"input_features", "input_values"} & set(found)
            row = np.asarray(found[name][0], dtype=np.float32)
            rows.append(row.T if self._is_whisper else row.reshape(len(row), -1))  # [F, M]
        return self._padded_features(rows, [np.ones(len(row), dtype=bool) for row in rows])

    def encode(self, frames: Float[Tensor, "clip frame dim"], frame_mask: Bool[Tensor, "clip frame"]) -> Encoding:
        """Return the encoder's states, projected to the decoder's width where the model does so."""
        states, mask = (frames, frame_mask) if self.parts.freeze_encoder else self._hear(frames, frame_mask)
        states = states.to(next(self.token_embedding.parameters()).dtype)
        if hasattr(self.model, "enc_to_dec_proj"):
            states = self.model.enc_to_dec_proj(states)
        if bool(mask.all()):
            return Encoding(states)
        lengths = mask.sum(dim=1)
        if bool((lengths == lengths[0]).all()):  # as always with Whisper, whose decoder knows no mask
            return Encoding(states[mask].view(len(states), -1, states.shape[-1]))
        return Encoding(states, mask)

    def context(self, encoding: Encoding) -> Context:
        """Write behind the prompt, reading the encoder's states."""
        prompt = torch.tensor(self._prompt_ids, device=encoding.states.device)
        prefix = self.token_embedding(prompt).expand(len(encoding.states), -1, -1)
        return Context(prefix, memory=encoding.states, memory_mask=encoding.mask)

    def compile_steps(self, backend: str = "inductor") -> None:  # noqa: ARG002
        """Refuse: compiled steps know no cross-attention."""
        raise CheckpointError(
            "the steps of a decoder with cross-attention cannot be compiled: set sampling.compile=false"
        )

    def logits(self, hidden: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
        """Project to the vocabulary."""
        scores: Tensor = self._head[0](hidden)
        return scores

    @classmethod
    def read_processor(cls, directory: Path) -> ProcessorMixin:
        """Read the processor; a feature extractor and a tokenizer that were saved apart will do."""
        processor = read_part(AutoProcessor, directory)
        if isinstance(processor, ProcessorMixin):
            return processor
        apart = [read_part(part, directory) for part in (AutoFeatureExtractor, AutoTokenizer)]
        return Wav2Vec2Processor(*apart)  # adds nothing of its own

    @property
    def _is_whisper(self) -> bool:
        return isinstance(self.model, WhisperForConditionalGeneration)

    def _find_prompt_ids(self) -> list[int]:
        """Return what the library's own generation begins with, and the prompt behind it."""
        begins: list[int] | None = getattr(self.tokenizer, "prefix_tokens", None)
        if begins is None:
            settings = self.model.generation_config
            known = (settings.decoder_start_token_id, self.model.config.decoder_start_token_id, settings.bos_token_id)
            start = next((token for token in known if token is not None), None)
            if start is None:
                raise CheckpointError(
                    f"this {self.model.config.model_type} names no decoder_start_token_id in generation_config.json: "
                    "add the token that its captions begin behind"
                )
            begins = [start] if settings.forced_bos_token_id is None else [start, settings.forced_bos_token_id]
        return [*begins, *self.tokenizer(self.parts.prompt, add_special_tokens=False).input_ids]

    def _hear(
        self, frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"]
    ) -> tuple[Float[Tensor, "clip position dim"], Bool[Tensor, "clip position"]]:
        """Run the encoder over clips of equal length together: some encoders hear the padding of others."""
        lengths = mask.sum(dim=1)
        parameter = next(self.encoder.parameters())
        states: list[Tensor] = [frames.new_empty(0)] * len(frames)
        for length in lengths.unique().tolist():
            clips = (lengths == length).nonzero().squeeze(1)
            some = frames[clips, :length].to(parameter.device, parameter.dtype)
            heard = self.encoder(some.transpose(1, 2) if self._is_whisper else some.squeeze(2)).last_hidden_state
            for clip, state in zip(clips.tolist(), heard, strict=True):
                states[clip] = state
        padded = nn.utils.rnn.pad_sequence(states, batch_first=True)
        sizes = torch.tensor([len(state) for state in states], device=padded.device)
        return padded, torch.arange(padded.shape[1], device=padded.device) < sizes[:, None]
