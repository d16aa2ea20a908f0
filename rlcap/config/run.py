"""The settings of a whole run: the root of the tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rlcap.config.algorithm import PPOConfig
from rlcap.config.captioner import CaptionerConfig, SamplingConfig, SftConfig
from rlcap.config.cluster import ClusterConfig
from rlcap.config.data import DataConfig
from rlcap.config.reward import RewardConfig
from rlcap.config.section import Section, must_not_be_negative
from rlcap.config.training import EvaluationConfig, TrackingConfig, TrainingConfig

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
        if self.sft.augment and self.captioner.freeze_encoder:
            yield "sft.augment must be false where captioner.freeze_encoder is true: a frozen encoder hears a clip once"
        if self.sampling.max_new_tokens > self.captioner.max_caption_tokens:
            yield (
                f"sampling.max_new_tokens must be at most captioner.max_caption_tokens "
                f"({self.captioner.max_caption_tokens}), got {self.sampling.max_new_tokens}"
            )
