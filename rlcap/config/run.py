"""The settings of a whole run: the root of the tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rlcap.config.algorithm import PPOConfig
from rlcap.config.captioner import CaptionerConfig, DecoderTuning, SamplingConfig, SftConfig
from rlcap.config.cluster import ClusterConfig
from rlcap.config.data import DataConfig, SourceKind
from rlcap.config.reward import FinetuneTowers, HeadKind, RewardConfig
from rlcap.config.section import Section, must_not_be_negative
from rlcap.config.training import EvaluationConfig, TrackingConfig, TrainingConfig

NEW_POLICY_RATE, ADAPTERS_POLICY_RATE, PRETRAINED_POLICY_RATE = 5e-4, 1e-4, 1e-5
"""Step sizes of the policy, by what is tuned."""
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(kw_only=True)
class RunConfig(Section):
    """Everything that decides what a run does."""

    experiment: str = "quickstart"
    """Name of the run; the default run directory begins with it."""
    seed: int = 0
    """Seed of everything that is drawn at random, the synthetic world excepted."""
    run_dir: str = ""
    """Folder that the run writes; empty: `runs/<experiment>-<time>`."""
    cache_dir: str = "runs/cache"
    """Folder of stage results that later runs reuse."""
    resume: bool = False
    """Continue the run in `run_dir` (empty: the latest one) from its last good checkpoint."""
    profile: bool = False
    """Write `timeline.json`: when the training loop and each actor did what, for chrome://tracing and Perfetto."""
    data: DataConfig = field(default_factory=DataConfig)
    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    algorithm: PPOConfig = field(default_factory=PPOConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def faults(self) -> Iterator[str]:
        """Report a name that cannot be a folder, and seeds that generators refuse."""
        if not _FOLDER_NAME.fullmatch(self.experiment):
            yield f"experiment must be letters, digits, '.', '_' or '-' (it names a folder), got {self.experiment!r}"
        if not self.cache_dir:
            yield "cache_dir must name a folder"
        yield from must_not_be_negative(seed=self.seed)
        if self.data.kind is SourceKind.none:
            yield from self._faults_without_audio()
        if self.sft.augment and self.captioner.freeze_encoder:
            yield "sft.augment must be false where captioner.freeze_encoder is true: a frozen encoder hears a clip once"
        if self.sft.augment and self.captioner.audio_encoder:
            yield "sft.augment must be false where captioner.audio_encoder is given: it changes log-mel frames"
        captioner, max_new_tokens = self.captioner, self.sampling.max_new_tokens
        if captioner.has_new_language_model and max_new_tokens > captioner.max_caption_tokens:
            yield (
                f"sampling.max_new_tokens must be at most captioner.max_caption_tokens "
                f"({captioner.max_caption_tokens}) where the language model is a new one, got {max_new_tokens}"
            )

    def _faults_without_audio(self) -> Iterator[str]:
        """Report what a reward model cannot do that reads captions alone."""
        reward = self.reward
        if reward.head.kind is not HeadKind.text_only:
            yield f"reward.head.kind must be text_only where data.kind is none, got {reward.head.kind.value}"
        if not reward.preferences:
            yield "reward.preferences must name pairs that people have judged where data.kind is none"
        if reward.matching_pairs_per_clip:
            yield (
                "reward.matching_pairs_per_clip must be 0 where data.kind is none: they come with audio, "
                f"got {reward.matching_pairs_per_clip}"
            )
        if not reward.clap_checkpoint and reward.head.finetune_towers is FinetuneTowers.none:
            yield (
                "reward.head.finetune_towers must be projections or all where data.kind is none and "
                "reward.clap_checkpoint is empty: nothing else trains the text tower"
            )

    def settle_learning_rate(self) -> None:
        """Put the step size that suits what is tuned where `algorithm.learning_rate` leaves it open."""
        if not self.algorithm.learning_rate:
            self.algorithm.learning_rate = _policy_rate(self.captioner)


def _policy_rate(captioner: CaptionerConfig) -> float:
    """Return the step size of the most delicate part that is tuned."""
    if captioner.has_new_language_model:
        return NEW_POLICY_RATE
    if captioner.decoder is DecoderTuning.full or not captioner.freeze_encoder:
        return PRETRAINED_POLICY_RATE
    return ADAPTERS_POLICY_RATE if captioner.decoder is DecoderTuning.lora else NEW_POLICY_RATE
