"""The captioner, how it is supervised, and how it is sampled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from rlcap.config.precision import Precision, SamplerPrecision, SaveDtype
from rlcap.config.section import Section, must_be_a_share, must_be_positive, must_not_be_negative

NEW_RATE, ADAPTERS_RATE, PRETRAINED_RATE = 1e-3, 5e-4, 3e-5
"""Learning rates of supervised fine-tuning, by where the trained weights come from."""


class DecoderTuning(Enum):
    """What is tuned of the decoder of a checkpoint."""

    full = "full"
    """All of it."""
    lora = "lora"
    """Low-rank adapters on its linear layers; the reference is the same decoder with the adapters off."""
    frozen = "frozen"
    """Nothing: only what maps the audio to a prefix learns (family prefix)."""


class Mapper(Enum):
    """What makes the prefix of a prefix captioner out of audio."""

    linear = "linear"
    """A linear map."""
    transformer = "transformer"
    """A transformer behind it, as in ClipCap: for language models that stay frozen."""


@dataclass(kw_only=True)
class CaptionerConfig(Section):
    """The baseline: a checkpoint, or the parts or the size of a new prefix captioner."""

    checkpoint: str = ""
    """Captioner directory to start from; empty: train a prefix captioner on the `captioned` split."""
    supervise: bool = False
    """Train the checkpoint on the `captioned` split as well, as `sft` says; `rlcap sft` always does."""
    language_model: str = ""
    """Directory of a causal language model of transformers for a new prefix captioner; empty: a small GPT-2."""
    audio_encoder: str = ""
    """Directory of a `ClapModel` whose audio tower a new prefix captioner hears with; empty: that of the small CLAP."""
    mapper: Mapper = Mapper.linear
    """What a new prefix captioner makes its prefix with."""
    mapper_layers: int = 8
    """Layers of a transformer mapper."""
    prompt: str = ""
    """What an audio LLM is asked, or what stands in front of every caption of an encoder-decoder."""
    decoder: DecoderTuning = DecoderTuning.full
    """What is tuned of the decoder of a checkpoint, or of a language model that is given."""
    lora_rank: int = 8
    """Rank of the adapters."""
    lora_alpha: float = 16.0
    """Their change is scaled by `lora_alpha / lora_rank`."""
    adapters_alone: bool = False
    """Save the adapters beside a link to the baseline, instead of a whole captioner with the adapters merged."""
    save_dtype: SaveDtype = SaveDtype.as_loaded
    """Of weights that are saved, baseline and tuned: what is trained is in float32 until then, and rounded to what it
    came in. Adapters saved alone, value head and mapper stay in float32."""
    gradient_checkpointing: bool = False
    """Compute the decoder's activations twice instead of keeping them: less memory, a third more time."""
    width: int = 128
    """Hidden size of a new language model."""
    num_layers: int = 2
    """Layers of a new language model."""
    num_heads: int = 4
    """Attention heads of a new language model."""
    prefix_length: int = 9
    """Audio vectors in front of the caption: one for the whole clip, the others for its segments."""
    max_caption_tokens: int = 64
    """Longest caption that a new language model has positions for; those of a given one are its own."""
    freeze_encoder: bool = True
    """Keep the audio tower as it is; each clip is then heard once for policy and reference together."""

    @property
    def has_new_language_model(self) -> bool:
        """Whether the sizes here are those of the language model, and not what a given one has by itself."""
        return not self.checkpoint and not self.language_model

    def faults(self) -> Iterator[str]:
        """Report sizes that cannot be built, and settings that do not go together."""
        yield from must_be_positive(
            mapper_layers=self.mapper_layers,
            width=self.width,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha,
        )
        if self.prefix_length < 2:
            yield f"prefix_length must be 2 or more, got {self.prefix_length}"
        if self.num_heads > 0 and self.width % self.num_heads:
            yield f"width must be a multiple of num_heads ({self.num_heads}), got {self.width}"
        for name in ("language_model", "audio_encoder"):
            if self.checkpoint and getattr(self, name):
                yield f"{name} must be empty where checkpoint names a whole captioner, got {getattr(self, name)}"
        if self.has_new_language_model and self.decoder is not DecoderTuning.full:
            yield f"decoder must be full where the language model is a new one, got {self.decoder.value}"


@dataclass(kw_only=True)
class SamplingConfig(Section):
    """How captions are drawn during training."""

    temperature: float = 1.0
    """Of sampler, log-probs and reference alike."""
    max_new_tokens: int = 24
    """Captions that do not end by then are truncated."""
    top_k: int = 0
    """Draw from that many of the most probable tokens; 0 means from all."""
    top_p: float = 1.0
    """And of those, from the fewest that hold this share of the probability; 1 means from all."""
    precision: SamplerPrecision = SamplerPrecision.auto
    """Of policy and reference in the actors. The learner scores what was not sampled in float32 by itself."""
    compile: bool = False
    """Compile the decoding step, on a GPU to CUDA graphs: takes a minute at the start, and every row goes on to the
    end of the longest caption. For decoders without cross-attention."""

    def faults(self) -> Iterator[str]:
        """Report values outside their range."""
        yield from must_be_positive(temperature=self.temperature, max_new_tokens=self.max_new_tokens)
        yield from must_not_be_negative(top_k=self.top_k)
        if not 0 < self.top_p <= 1:
            yield f"top_p must lie in (0, 1], got {self.top_p}"


@dataclass(kw_only=True)
class SftConfig(Section):
    """Supervised training of the baseline (and of the supervised comparison) on (audio, caption) pairs."""

    text_epochs: int = 0
    """Passes over the captions of the `clap` split before the others, without audio: a new model learns language."""
    num_epochs: int = 20
    """Passes over the captioned clips."""
    batch_size: int = 32
    """Clips per step."""
    microbatch_size: int = 0
    """Clips that go through the captioner at once, to save memory; 0 means the whole batch."""
    precision: Precision = Precision.float32
    """Arithmetic of the passes; weights and optimiser stay in float32."""
    learning_rate: float = 0.0
    """Peak of a cosine schedule; 0: by what is trained. 1e-3 for new modules, 5e-4 for adapters, and 3e-5 for what
    comes from `captioner.checkpoint`, `captioner.language_model` or `captioner.audio_encoder`."""
    weight_decay: float = 0.05
    """AdamW's decay."""
    dropout: float = 0.1
    """On the audio prefix and inside a new language model; given models have their own. Off everywhere but here."""
    augment: bool = False
    """Mask random stretches of log-mel frames, and vary the gain; needs `captioner.freeze_encoder=false`."""

    def faults(self) -> Iterator[str]:
        """Report values outside their range."""
        yield from must_be_positive(num_epochs=self.num_epochs, batch_size=self.batch_size)
        yield from must_not_be_negative(
            weight_decay=self.weight_decay,
            text_epochs=self.text_epochs,
            microbatch_size=self.microbatch_size,
            learning_rate=self.learning_rate,
        )
        yield from must_be_a_share(dropout=self.dropout)
