"""The reward: the small CLAP, the head fitted on preferences, and the server that scores with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from rlcap.config.section import Section, must_be_positive, must_not_be_negative


class HeadKind(Enum):
    """What turns two embeddings into a score."""

    mlp = "mlp"
    """The paper's: both embeddings, concatenated, through an MLP fitted on preferences."""
    cosine = "cosine"
    """The cosine of the two embeddings: needs no preferences."""
    text_only = "text_only"
    """A control: the paper's head with the audio embedding replaced by zeros."""


class FinetuneTowers(Enum):
    """What of the CLAP is trained together with the head."""

    none = "none"
    """Nothing: embeddings are computed once, and heads over the same encoder share the audio cache."""
    projections = "projections"
    """The last layer of each tower."""
    all = "all"
    """Both towers."""
    text_lora = "text_lora"
    """Low-rank adapters in the text tower: embeddings of audio stay, and with them the audio cache."""


class Ensemble(Enum):
    """How the scores of several heads become one."""

    mean = "mean"
    """Their mean."""
    minimum = "minimum"
    """The lowest of them."""
    mean_minus_std = "mean_minus_std"
    """Their mean, less `std_weight` standard deviations: what they disagree on is worth less."""


@dataclass(kw_only=True)
class ClapConfig(Section):
    """The small CLAP: its size and its contrastive training."""

    embedding_dim: int = 512
    """Size of the audio and the text embedding."""
    audio_channels: list[int] = field(default_factory=lambda: [16, 32, 64, 96])
    """Channels of the audio tower's four stages; a captioner that starts from this tower must have the same."""
    num_segments: int = 8
    """Stretches of the clip that are pooled apart, so that the order of sounds survives."""
    text_width: int = 128
    """Hidden size of the text tower."""
    num_text_layers: int = 2
    """Transformer layers of the text tower; 0: it reads a bag of words."""
    num_heads: int = 4
    """Attention heads of the text tower."""
    max_words: int = 64
    """Longer captions are cut."""
    batch_size: int = 128
    """Captioned clips in one contrastive batch."""
    num_epochs: int = 8
    """Passes over the captioned clips."""
    learning_rate: float = 1e-3
    """Peak step size; it warms up over the first tenth of the steps and then falls along a cosine."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    word_loss_weight: float = 0.0
    """Weight of foretelling a caption's words from its audio, beside telling captions apart; 0 leaves it out."""
    augment: bool = False
    """Whether training clips are shifted in time, changed in gain, and masked; slows runs as short as this."""
    validation_share: float = 0.1
    """Share of the clips on which retrieval is measured."""

    def faults(self) -> Iterator[str]:
        """Report sizes that cannot be built or trained."""
        if len(self.audio_channels) != 4 or min(self.audio_channels) < 1:
            yield f"audio_channels must list 4 sizes above 0, got {self.audio_channels}"
        yield from must_be_positive(
            embedding_dim=self.embedding_dim,
            num_segments=self.num_segments,
            text_width=self.text_width,
            num_heads=self.num_heads,
            max_words=self.max_words,
            num_epochs=self.num_epochs,
            learning_rate=self.learning_rate,
        )
        yield from must_not_be_negative(
            num_text_layers=self.num_text_layers,
            weight_decay=self.weight_decay,
            word_loss_weight=self.word_loss_weight,
        )
        if self.batch_size < 2:
            yield f"batch_size must be 2 or more, since captions are told apart within a batch, got {self.batch_size}"
        if not 0 < self.validation_share < 1:
            yield f"validation_share must lie in (0, 1), got {self.validation_share}"
        if self.num_heads > 0 and self.text_width % self.num_heads:
            yield f"text_width must be a multiple of num_heads ({self.num_heads}), got {self.text_width}"


@dataclass(kw_only=True)
class HeadConfig(Section):
    """The head over the CLAP embeddings, and its Bradley-Terry fit."""

    kind: HeadKind = HeadKind.mlp
    """What turns two embeddings into a score."""
    hidden_sizes: list[int] = field(default_factory=lambda: [512, 128])
    """Hidden layers of the MLP."""
    dropout: float = 0.4
    """Share of hidden units switched off while fitting."""
    num_members: int = 1
    """Heads that are fitted apart and score together: what fools one of them need not fool all."""
    ensemble: Ensemble = Ensemble.mean
    """How the scores of several heads become one."""
    std_weight: float = 1.0
    """Standard deviations that `mean_minus_std` takes off."""
    sigmoid_output: bool = False
    """Whether scores pass through a sigmoid on the way out; the fit always sees the raw score."""
    finetune_towers: FinetuneTowers = FinetuneTowers.none
    """What of the CLAP is trained together with the head."""
    lora_rank: int = 8
    """Rank of the adapters of `text_lora`."""
    lora_alpha: float = 16.0
    """Their scale: what they add is multiplied by lora_alpha / lora_rank."""
    l2: float = 1e-4
    """Weight decay of the head."""
    learning_rate: float = 5e-4
    """Step size of the head."""
    tower_learning_rate: float = 1e-4
    """Step size of what is trained of the towers."""
    batch_size: int = 256
    """Pairs behind one optimiser step."""
    num_epochs: int = 16
    """Passes over the pairs at most."""
    patience: int = 4
    """Passes without a better validation loss after which the fit ends."""
    validation_share: float = 0.1
    """Share of the clips that decide when to stop."""
    heldout_share: float = 0.1
    """Share of the clips on which the accuracy is measured, seen by nothing before."""

    def faults(self) -> Iterator[str]:
        """Report values outside their range."""
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            yield f"hidden_sizes must list sizes above 0, got {self.hidden_sizes}"
        if not 0 <= self.dropout < 1:
            yield f"dropout must lie in [0, 1), got {self.dropout}"
        if not (
            self.validation_share > 0 and self.heldout_share > 0 and self.validation_share + self.heldout_share < 1
        ):
            yield (
                "validation_share and heldout_share must be above 0 and leave clips to train on, "
                f"got {self.validation_share} and {self.heldout_share}"
            )
        if self.num_members > 1 and self.kind is HeadKind.cosine:
            yield f"num_members must be 1 where kind is cosine, which has nothing to fit, got {self.num_members}"
        if self.num_members > 1 and self.finetune_towers is not FinetuneTowers.none:
            yield (
                f"finetune_towers must be none where num_members ({self.num_members}) heads share the towers, "
                f"got {self.finetune_towers.value}"
            )
        yield from must_be_positive(
            num_members=self.num_members,
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha,
            learning_rate=self.learning_rate,
            tower_learning_rate=self.tower_learning_rate,
            batch_size=self.batch_size,
            num_epochs=self.num_epochs,
            patience=self.patience,
        )
        yield from must_not_be_negative(l2=self.l2, std_weight=self.std_weight)


@dataclass(kw_only=True)
class FitReportConfig(Section):
    """What `rlcap reward fit` measures beside the accuracy on held-out pairs; costs further fits."""

    learning_curve: list[float] = field(default_factory=lambda: [0.1, 0.25, 0.5, 1.0])
    """Shares of the training clips on which the fit is repeated; empty: none."""
    num_folds: int = 0
    """Parts into which all clips are divided, each scored by a model fitted on the others; 0: none."""

    def faults(self) -> Iterator[str]:
        """Report shares that leave nothing or too much to train on, and folds that leave nothing."""
        if not all(0 < share <= 1 for share in self.learning_curve):
            yield f"learning_curve must list shares in (0, 1], got {self.learning_curve}"
        if self.num_folds < 0 or self.num_folds == 1:
            yield f"num_folds must be 0 or at least 2, got {self.num_folds}"


@dataclass(kw_only=True)
class TextTermsConfig(Section):
    """Weights of the terms that read the caption alone; 0 leaves a term out. Each term here lies in [-1, 0]."""

    repetition: float = 0.0
    """Minus the share of pairs of neighbouring words that repeat an earlier pair."""
    length: float = 0.0
    """Minus the words below `min_words` or above `max_words`, as a share of that bound."""
    unfinished: float = 0.0
    """-1 for captions that end on a word which asks for another, such as "the" or "and", or hold no word."""
    full_stop: float = 0.0
    """-1 for captions that end without a full stop, exclamation or question mark."""
    min_words: int = 3
    """Shorter captions cost."""
    max_words: int = 24
    """Longer captions cost."""
    custom: dict[str, float] = field(default_factory=dict)
    """Weights of terms of your own by name, of either sign: docs/reward-models.md says how to give a name to one."""

    def faults(self) -> Iterator[str]:
        """Report weights outside their range and an empty range of lengths."""
        yield from must_not_be_negative(
            repetition=self.repetition,
            length=self.length,
            unfinished=self.unfinished,
            full_stop=self.full_stop,
        )
        yield from must_be_positive(min_words=self.min_words)
        if self.max_words < self.min_words:
            yield f"max_words must be at least min_words ({self.min_words}), got {self.max_words}"
        for name, weight in self.custom.items():
            if not math.isfinite(weight):
                yield f"custom.{name} must be finite, got {weight}"


@dataclass(kw_only=True)
class ProbeConfig(Section):
    """What a candidate must show on the probe set before it may replace the live reward model."""

    num_clips: int = 8
    """Clips of the first and the latest update whose captions are the probe set."""
    min_spread: float = 1e-6
    """Least standard deviation of its scores."""
    min_rank_agreement: float = -1.0
    """Least Spearman correlation with the live scores; -1 only reports it."""

    def faults(self) -> Iterator[str]:
        """Report values outside their range."""
        yield from must_be_positive(num_clips=self.num_clips)
        yield from must_not_be_negative(min_spread=self.min_spread)
        if not -1 <= self.min_rank_agreement <= 1:
            yield f"min_rank_agreement must lie in [-1, 1], got {self.min_rank_agreement}"


@dataclass(kw_only=True)
class RewardConfig(Section):
    """The reward model and the server that holds it."""

    checkpoint: str = ""
    """Reward model directory to serve; empty: train one."""
    preferences: str = ""
    """File of preference pairs to fit on, as `rlcap prefs import` writes it; empty: ask simulated annotators."""
    clap_checkpoint: str = ""
    """Pretrained CLAP under the head: a directory in the layout of transformers' ClapModel, or a `.pt` file of
    laion_clap; empty: the small CLAP."""
    clap_tokenizer: str = ""
    """Directory of the RoBERTa tokenizer that a `.pt` file in `clap_checkpoint` was trained with."""
    num_shards: int = 2
    """Actors that each own a part of the clips."""
    cache_mb: float = 256.0
    """Audio embeddings that one shard keeps; 0 keeps none."""
    timeout_s: float = 120.0
    """Longest wait for one request, restarts of shards included."""
    shard_timeout_s: float = 60.0
    """Longest wait for one shard before its part goes to another one, and it is replaced; must exceed a full pass."""
    max_queued: int = 4096
    """Captions that may wait in front of one shard's model; while there are more, callers wait."""
    memory_mb: float = 0.0
    """Memory that the reward models of one shard may take; 0: what its machine or GPU has free."""
    max_batch_size: int = 512
    """Captions in one pass of the text tower."""
    max_wait_ms: float = 2.0
    """How long a shard gathers requests before it scores; unused where `deterministic` is set."""
    deterministic: bool = True
    """Whether each request is scored alone, so that other requests never change its last bits."""
    pairs_per_clip: int = 6
    """Preference pairs that simulated annotators judge on each clip of the `preference` split."""
    matching_pairs_per_clip: int = 0
    """Pairs that need no votes, for each clip of the `clap` split: its own caption against another clip's."""
    clap: ClapConfig = field(default_factory=ClapConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    fit_report: FitReportConfig = field(default_factory=FitReportConfig)
    text_terms: TextTermsConfig = field(default_factory=TextTermsConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)

    def faults(self) -> Iterator[str]:
        """Report values outside their range, and preferences that are still to be imported."""
        yield from must_be_positive(
            num_shards=self.num_shards,
            timeout_s=self.timeout_s,
            shard_timeout_s=self.shard_timeout_s,
            max_queued=self.max_queued,
            max_batch_size=self.max_batch_size,
            pairs_per_clip=self.pairs_per_clip,
        )
        yield from must_not_be_negative(
            cache_mb=self.cache_mb,
            memory_mb=self.memory_mb,
            max_wait_ms=self.max_wait_ms,
            matching_pairs_per_clip=self.matching_pairs_per_clip,
        )
        over_any_clap = (FinetuneTowers.none, FinetuneTowers.text_lora)
        if self.clap_checkpoint and self.head.finetune_towers not in over_any_clap:
            yield (
                "head.finetune_towers must be none or text_lora where clap_checkpoint names a pretrained CLAP, "
                f"got {self.head.finetune_towers.value}"
            )
        if self.clap_checkpoint.endswith(".pt") and not self.clap_tokenizer:
            yield (
                "clap_tokenizer must name a directory with the files of the tokenizer roberta-base, since the "
                f"checkpoints of laion_clap hold none, got none beside clap_checkpoint={self.clap_checkpoint}"
            )
        if self.preferences and not self.preferences.endswith(".parquet"):
            yield (
                "preferences must name a .parquet file of pairs (turn others into one with `rlcap prefs import`), "
                f"got {self.preferences}"
            )
