"""How captioners are taught true captions: a new baseline, one that is given, and the supervised comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from learner.learning_rates import EVERYTHING
from learner.supervised import supervise, teach_language
from reward_server.small_clap import SmallClap
from rlcap.captioners.captioner import Captioner
from rlcap.captioners.prefix import PrefixCaptioner
from rlcap.captioners.prefix_parts import build_around_language_model, build_prefix_captioner
from rlcap.captioners.tokenizer import build_word_tokenizer
from rlcap.config.captioner import CaptionerConfig, SftConfig
from rlcap.config.data import Split
from rlcap.config.run import RunConfig
from rlcap.pipeline.clips import SplitClips
from rlcap.pipeline.listening import Listener, join_features
from rlcap.pipeline.progress import progress_bar
from rlcap.soundscapes.grammar import vocabulary
from rlcap.types import Clip

LANGUAGE_MODEL, AUDIO_TOWER = "language_model", "audio_tower"
"""Modules of a prefix captioner."""
SILENCE = Clip("silence", np.zeros(16_000, dtype=np.float32), 16_000)


@dataclass(frozen=True, slots=True)
class Teacher:
    """Teaches captioners of any family; each hears the clips in its own way."""

    config: RunConfig
    clips: Callable[[Split], SplitClips]
    listener: Listener

    def texts(self) -> list[str]:
        """Captions that teach a new language model its language; none where it is not to be taught so."""
        captioner = self.config.captioner
        if captioner.checkpoint or captioner.language_model or not self.config.sft.text_epochs:
            return []
        return [own[0] for own in self.clips(Split.clap).known_captions()]

    def new_captioner(self, small_clap: Path | None) -> PrefixCaptioner:
        """Make a prefix captioner of what the settings name; a small tower starts as that of the small CLAP."""
        config, texts = self.config, self.texts()
        channels, dropout = config.reward.clap.audio_channels, config.sft.dropout
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            if config.captioner.language_model:
                captioner = build_around_language_model(
                    config.captioner, encoder_channels=channels, dropout=dropout, device=self.device
                )
            else:
                words = build_word_tokenizer(self._words(texts))
                captioner = build_prefix_captioner(config.captioner, words, encoder_channels=channels, dropout=dropout)
        if small_clap:
            captioner.audio_tower.load_state_dict(SmallClap.load(small_clap).audio_tower.tower.state_dict())
        if texts:
            self._teach_language(captioner, texts)
        return captioner

    def supervise(self, captioner: Captioner, splits: Sequence[Split], config: SftConfig, description: str) -> None:
        """Teach a captioner the true captions of these splits, on a GPU where the learner has one."""
        captioner.to(self.device)
        clips = [self.clips(split) for split in splits]
        known = [some.known_captions() for some in clips]
        heard = [self.listener.hear(some, captioner.features, "listen (captioned)") for some in clips]
        captions = [mine[position] for mine, some in zip(known, heard, strict=True) for position in some.positions]
        with progress_bar(description, config.num_epochs) as advance:
            supervise(
                captioner,
                join_features([some.audio for some in heard]),
                captions,
                config,
                self.config.seed,
                lambda _, loss: advance(f"loss {loss:.2f}"),
                pretrained=pretrained_parts(self.config.captioner),
            )

    def _teach_language(self, captioner: Captioner, texts: Sequence[str]) -> None:
        config = self.config
        captioner.to(self.device)
        with progress_bar("teach the baseline language", config.sft.text_epochs) as advance:
            teach_language(
                captioner,
                captioner.features([SILENCE]),
                texts,
                config.sft,
                config.seed,
                lambda _, loss: advance(f"loss {loss:.2f}"),
            )

    def _words(self, texts: Sequence[str]) -> list[str]:
        clips = self.clips(Split.captioned)
        return [*vocabulary(clips.lexicon), *chain.from_iterable(clips.known_captions()), *texts]

    @property
    def device(self) -> torch.device:
        """Where captioners are taught."""
        has_gpu = self.config.cluster.learner_gpus > 0 and torch.cuda.is_available()
        return torch.device("cuda" if has_gpu else "cpu")


def pretrained_parts(config: CaptionerConfig) -> tuple[str, ...]:
    """Name the modules of a captioner that come from elsewhere; a small audio tower is as new as its small CLAP."""
    if config.checkpoint:
        return EVERYTHING
    given = {LANGUAGE_MODEL: config.language_model, AUDIO_TOWER: config.audio_encoder}
    return tuple(name for name, directory in given.items() if directory)
