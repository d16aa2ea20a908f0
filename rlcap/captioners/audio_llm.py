"""Audio LLMs: a chat about a clip, whose audio stands among the prompt's tokens as vectors.

Qwen2-Audio (Chu et al., 2024) hears the first 30 s of a clip; Audio Flamingo 3 (Goel et al., 2025) hears up to
10 minutes, in windows of 30 s one after another.
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
    AudioFlamingo3ForConditionalGeneration,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2AudioForConditionalGeneration,
)
from transformers.masking_utils import create_bidirectional_mask

from rlcap.audio.resampling import resample
from rlcap.captioners.captioner import Encoding
from rlcap.captioners.checkpoint_files import in_a_sentence
from rlcap.captioners.hf_checkpoints import read_part
from rlcap.captioners.pretrained import PretrainedCaptioner
from rlcap.captioners.tuned_parts import TunedParts
from rlcap.errors import CheckpointError
from rlcap.types import Clip, PolicyFeatures

DEFAULT_PROMPT = "Describe the sounds of this recording in one sentence."


class AudioLlmCaptioner(PretrainedCaptioner):
    """The chat template with the clip's audio and the prompt stands in front of the caption."""

    family = "audio_llm"
    # Transformers has no auto class that knows both.
    models: ClassVar[Mapping[str, type[PreTrainedModel]]] = {
        "qwen2_audio": Qwen2AudioForConditionalGeneration,
        "audioflamingo3": AudioFlamingo3ForConditionalGeneration,
    }

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, parts: TunedParts) -> None:
        super().__init__(model, processor, parts)
        self._before_ids, self._after_ids = self._find_prompt_ids()
        settings = model.generation_config
        self.forbidden_tokens = tuple(sorted({*(settings.suppress_tokens or ()), processor.audio_token_id}))
        self.forbidden_first_tokens = tuple(settings.begin_suppress_tokens or ())

    @property
    def encoder(self) -> nn.Module:
        """What hears the audio, the projection to the language model's width included."""
        return nn.ModuleList([self.model.model.audio_tower, self.model.model.multi_modal_projector])

    @property
    def decoder_stack(self) -> PreTrainedModel:
        """The language model's layers."""
        stack: PreTrainedModel = self.model.model.language_model
        return stack

    @property
    def token_embedding(self) -> nn.Module:
        """Tokens to vectors."""
        embedding: nn.Module = self.decoder_stack.get_input_embeddings()
        return embedding

    def features(self, clips: Sequence[Clip]) -> PolicyFeatures:
        """Compute the log-mel frames of whole windows, or what a frozen encoder hears in them."""
        extract = self.processor.feature_extractor
        mels, masks = [], []
        for clip in clips:
            waveform = resample(clip.waveform, clip.sample_rate_hz, extract.sampling_rate)
            starts = range(0, len(waveform), extract.n_samples)[: self._most_windows]
            found = extract(
                [waveform[start : start + extract.n_samples] for start in starts],
                sampling_rate=extract.sampling_rate,
                padding="max_length",
                return_attention_mask=True,
                return_tensors="np",
            )
            mels.append(np.concatenate(found["input_features"].transpose(0, 2, 1)).astype(np.float32))
            masks.append(found["attention_mask"].reshape(-1).astype(bool))
        return self._padded_features(mels, masks)

    def encode(self, frames: Float[Tensor, "clip frame dim"], frame_mask: Bool[Tensor, "clip frame"]) -> Encoding:
        """Put the audio's vectors between the tokens of the prompt, padding last."""
        audio, mask = (frames, frame_mask) if self.parts.freeze_encoder else self._hear(frames, frame_mask)
        before, after = (self._embed(ids, audio) for ids in (self._before_ids, self._after_ids))
        vectors = torch.cat([before, audio.to(before.dtype), after], dim=1)
        known = torch.cat([_all(before), mask, _all(after)], dim=1)
        order = (~known).to(torch.uint8).argsort(dim=1, stable=True)
        states = vectors.gather(1, order[:, :, None].expand_as(vectors))
        longest = int(known.sum(dim=1).max())
        mask = known.gather(1, order)[:, :longest]
        return Encoding(states[:, :longest], None if bool(mask.all()) else mask)

    def logits(self, hidden: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
        """Project to the vocabulary."""
        scores: Tensor = self.model.lm_head(hidden)
        return scores

    @classmethod
    def read_processor(cls, directory: Path) -> ProcessorMixin:
        """Read the processor."""
        processor: ProcessorMixin = read_part(AutoProcessor, directory)
        return processor

    @property
    def _most_windows(self) -> int:
        """How many windows of a clip are heard: one, where the processor cuts clips to it."""
        window_s = self.processor.feature_extractor.chunk_length
        return max(1, int(getattr(self.processor, "max_audio_len", window_s) // window_s))

    def _find_prompt_ids(self) -> tuple[list[int], list[int]]:
        """Return the tokens of the chat before and after the audio."""
        content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": self.parts.prompt or DEFAULT_PROMPT}]
        with in_a_sentence(f"the chat template of this {self.model.config.model_type} cannot be filled"):
            chat = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        before, found, after = chat.partition(self.processor.audio_token)
        if not found or self.processor.audio_token in after:
            raise CheckpointError(
                f"the chat template of this {self.model.config.model_type} has no single place for a clip: got {chat!r}"
            )
        first, last = (self.tokenizer(text, add_special_tokens=False).input_ids for text in (before, after))
        return first, last

    def _embed(self, ids: Sequence[int], like: Tensor) -> Float[Tensor, "clip token dim"]:
        vectors = self.token_embedding(torch.tensor(ids, dtype=torch.int64, device=like.device))
        expanded: Tensor = vectors.expand(len(like), -1, -1)
        return expanded

    def _hear(
        self, frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"]
    ) -> tuple[Float[Tensor, "clip position dim"], Bool[Tensor, "clip position"]]:
        """Run audio tower and projector over all windows that hold audio; only a clip's last one holds padding."""
        tower, projector = self.model.model.audio_tower, self.model.model.multi_modal_projector
        parameter = next(tower.parameters())
        size = 2 * tower.config.max_source_positions
        windows = frames.reshape(-1, size, frames.shape[-1]).transpose(1, 2).to(parameter.device, parameter.dtype)
        window_mask = mask.reshape(-1, size).to(parameter.device)
        with_audio = window_mask.any(dim=1)
        vectors = projector(self._run_tower(windows[with_audio], window_mask[with_audio]))
        _, num_vectors = tower._get_feat_extract_output_lengths(window_mask.sum(dim=1))
        known = torch.arange(vectors.shape[1], device=vectors.device) < num_vectors[:, None]
        heard = vectors.new_zeros(len(windows), *vectors.shape[1:]).index_put((with_audio,), vectors)
        heard, known = heard.view(len(frames), -1, heard.shape[-1]), known.view(len(frames), -1)
        longest = int(known.sum(dim=1).max())
        return heard[:, :longest], known[:, :longest]

    def _run_tower(
        self, mel: Float[Tensor, "window mel frame"], mask: Bool[Tensor, "window frame"]
    ) -> Float[Tensor, "window position dim"]:
        """Run the audio tower, masking as the model's own forward pass does."""
        tower = self.model.model.audio_tower
        if self.model.config.model_type == "audioflamingo3":
            settings = {"input_features_mask": mask.long()}
        else:
            lengths, _ = tower._get_feat_extract_output_lengths(mask.sum(dim=1))
            inside = (torch.arange(tower.config.max_source_positions, device=mask.device) < lengths[:, None]).long()
            shape = mel.new_zeros(*inside.shape, 1)
            settings = {"attention_mask": create_bidirectional_mask(tower.config, shape, inside)}
        heard: Tensor = tower(mel, **settings).last_hidden_state
        return heard


def _all(vectors: Float[Tensor, "clip token dim"]) -> Bool[Tensor, "clip token"]:
    return torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
