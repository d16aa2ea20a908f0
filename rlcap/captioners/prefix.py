"""The prefix family: an audio encoder whose output stands in front of a causal language model's caption.

Mokady et al., *ClipCap: CLIP Prefix for Image Captioning* (2021), with sounds instead of images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from rlcap.audio.features import LogMel, LogMelConfig
from rlcap.audio.tower import AudioTower, pool_segments
from rlcap.captioners.captioner import Captioner, Encoding
from rlcap.captioners.decoder import Context, DecoderRows, FixedRows, TransformersDecoder
from rlcap.captioners.heads import vocabulary_head
from rlcap.captioners.pretrained import load_model
from rlcap.captioners.value_head import build_value_head, load_value_head, save_value_head
from rlcap.errors import CheckpointError, in_one_line
from rlcap.types import Clip, PolicyFeatures


@dataclass(frozen=True)
class PrefixCaptionerConfig:
    """The architecture of a prefix captioner, as `config.json` holds it; the language model has its own."""

    num_segments: int = 8
    """Prefix vectors in time order; one more, for the whole clip, stands before them."""
    encoder_channels: tuple[int, ...] = (16, 32, 64, 96)
    freeze_encoder: bool = True
    """A frozen encoder hears each clip once: its output, not the log-mel frames, is the policy's features."""
    prefix_dropout: float = 0.1
    """On the prefix while a baseline is trained; inside the language model its own dropout acts."""
    features: LogMelConfig = field(default_factory=LogMelConfig)


class PrefixCaptioner(Captioner):
    """Audio prefix and causal language model, with a small critic on the detached hidden states."""

    family = "prefix"

    def __init__(
        self, config: PrefixCaptionerConfig, language_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.language_model = language_model
        width = language_model.config.hidden_size
        self.audio_tower = AudioTower(config.features.num_mels, config.encoder_channels)
        self.audio_tower.requires_grad_(not config.freeze_encoder).eval()  # a new module is in training mode
        # Norms halve the captions it takes to learn: the tower's channels differ in scale.
        self.segments_to_prefix = _normed_linear(self.audio_tower.width, width)
        self.clip_to_prefix = _normed_linear(2 * self.audio_tower.width, width)
        self.prefix_dropout = nn.Dropout(config.prefix_dropout)
        self.value_head = build_value_head(width)
        self.eos_token_ids = (tokenizer.eos_token_id,)
        self.pad_token_id = tokenizer.pad_token_id
        self._decoder = TransformersDecoder(language_model.base_model, language_model.get_input_embeddings())
        self._log_mel = LogMel(config.features)

    def train(self, mode: bool = True) -> PrefixCaptioner:
        """Set the mode of everything but the audio tower, whose batch statistics stay as they were trained."""
        super().train(mode)
        self.audio_tower.eval()
        return self

    def features(self, clips: Sequence[Clip]) -> PolicyFeatures:
        """Compute log-mel frames, or what a frozen encoder hears in them."""
        return self.features_of(self._log_mel(clips))

    @torch.no_grad()
    def features_of(self, log_mel: PolicyFeatures) -> PolicyFeatures:
        """Turn log-mel frames `[C, F, M]` into the features that `encode` reads."""
        if not self.config.freeze_encoder:
            return log_mel
        like = self.audio_tower.mel_mean
        frames = torch.from_numpy(log_mel.frames).to(like.device, like.dtype)
        mask = torch.from_numpy(log_mel.frame_mask).to(like.device)
        steps, mask = self.audio_tower(frames, mask)
        return PolicyFeatures(steps.contiguous().float().cpu().numpy(), mask.cpu().numpy())

    def encode(self, frames: Float[Tensor, "clip frame dim"], frame_mask: Bool[Tensor, "clip frame"]) -> Encoding:
        """Turn features into prefix vectors, `[C, 1 + num_segments, D]`."""
        frames = frames.to(self.audio_tower.mel_mean.dtype)
        steps, mask = (frames, frame_mask) if self.config.freeze_encoder else self.audio_tower(frames, frame_mask)
        peak = steps.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
        mean = torch.where(mask[:, :, None], steps, 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        whole = self.clip_to_prefix(torch.cat([mean, peak], dim=1)).unsqueeze(1)
        segments = self.segments_to_prefix(pool_segments(steps, mask, self.config.num_segments))
        return Encoding(self.prefix_dropout(torch.cat([whole, segments], dim=1)))

    def compile_steps(self, backend: str = "inductor") -> None:
        """Compile `step`, with shapes that never change."""
        self._decoder.compile_steps(backend)

    def begin(
        self, encoding: Encoding, clip_index: Int[Tensor, " batch"], max_new_tokens: int
    ) -> tuple[DecoderRows | FixedRows, Float[Tensor, "batch dim"]]:
        """Read the prefix once per clip. Raises CheckpointError where captions are longer than the positions known."""
        return self._decoder.begin(Context(encoding.states, encoding.mask), clip_index, max_new_tokens)

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
        """Teacher-force; the prefix is read once per clip here too."""
        return self._decoder.hidden_states(Context(encoding.states, encoding.mask), clip_index, tokens, action_mask)

    def logits(self, hidden: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
        """Project to the vocabulary."""
        scores: Tensor = vocabulary_head(self.language_model)(hidden)
        return scores

    def save(self, directory: Path) -> None:
        """Write config, encoder, language model, tokenizer and value head."""
        directory.mkdir(parents=True, exist_ok=True)
        settings = {"family": self.family, **asdict(self.config)}
        (directory / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        self.language_model.save_pretrained(directory / "language_model")
        self.tokenizer.save_pretrained(directory / "language_model")
        save_file(_contiguous(self._encoder().state_dict()), directory / "audio_encoder.safetensors")
        save_value_head(self.value_head, directory)

    @classmethod
    def load(cls, directory: Path) -> PrefixCaptioner:
        """Read what `save` wrote.

        Raises:
            CheckpointError: a file is missing, or its weights are of another architecture.
        """
        settings = json.loads((directory / "config.json").read_text())
        settings.pop("family")
        features = LogMelConfig(**settings.pop("features"))
        channels = tuple(settings.pop("encoder_channels"))
        config = PrefixCaptionerConfig(**settings, encoder_channels=channels, features=features)
        language_model = load_model(AutoModelForCausalLM, directory / "language_model")
        tokenizer = AutoTokenizer.from_pretrained(directory / "language_model", local_files_only=True)
        captioner = cls(config, language_model, tokenizer)
        try:
            captioner._encoder().load_state_dict(load_file(directory / "audio_encoder.safetensors"))
        except (RuntimeError, SafetensorError) as mismatch:
            raise CheckpointError(
                f"{directory} holds damaged weights or another architecture: {in_one_line(mismatch)}"
            ) from mismatch
        load_value_head(captioner.value_head, directory)
        return captioner

    def _encoder(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "audio_tower": self.audio_tower,
                "segments_to_prefix": self.segments_to_prefix,
                "clip_to_prefix": self.clip_to_prefix,
            }
        )


def _normed_linear(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, outputs))


def _contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in state.items()}
