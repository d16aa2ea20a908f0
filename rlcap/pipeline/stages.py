"""The stages before PPO, and the supervised comparison, each cached by what it depends on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from learner.supervised import supervise, teach_language
from reward_server.clap import Clap
from reward_server.clap_training import train_clap
from reward_server.fitting import fit_preferences
from reward_server.hf_clap import HfClap
from reward_server.laion_clap_backend import LaionClap
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from reward_server.tower_inputs import HeardAudio
from rlcap.audio.features import LogMel, LogMelConfig
from rlcap.captioners.captioner import Captioner
from rlcap.captioners.loading import build_prefix_captioner, load_captioner
from rlcap.captioners.tokenizer import build_word_tokenizer
from rlcap.config.captioner import SftConfig
from rlcap.config.data import Split
from rlcap.config.reward import HeadKind
from rlcap.config.run import RunConfig
from rlcap.pipeline.clips import EmbeddedClips, HeardClips, SplitClips, embed, hear, join_features, open_split
from rlcap.pipeline.matching_pairs import draw_matching_pairs
from rlcap.pipeline.preference_pairs import keep_pairs, read_given_pairs, simulate_preferences
from rlcap.pipeline.progress import progress_bar
from rlcap.pipeline.stage_cache import StageCache, StageResult
from rlcap.preferences.pairs import PreferencePair, read_pairs, write_pairs
from rlcap.soundscapes.grammar import vocabulary
from rlcap.types import Clip, PolicyFeatures, Quarantined

STAGES = ("clap", "sft", "prefs", "reward")
SILENCE = Clip("silence", np.zeros(16_000, dtype=np.float32), 16_000)
METRICS_FILE, PAIRS_FILE = "metrics.json", "pairs.parquet"


class Stages:
    """The stages of one configuration; each property runs its stage, or finds it in the cache."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.cache = StageCache(Path(config.cache_dir))
        self.results: dict[str, StageResult] = {}
        self.quarantined: list[Quarantined] = []
        self._clips: dict[Split, SplitClips] = {}
        self._log_mels: dict[Split, HeardClips] = {}
        self._embedded: dict[Split, EmbeddedClips] = {}

    def clips(self, split: Split) -> SplitClips:
        """The clips of a split, with what is known of them."""
        if split not in self._clips:
            self._clips[split] = open_split(self.config.data, split, self.cache)
        return self._clips[split]

    def check_data(self) -> None:
        """Refuse what a later stage of the whole job could not use, before the first one begins.

        Raises:
            DataError: the clips of a split lack captions or labels that are needed, or given pairs cannot be used.
            CheckpointError: `reward.clap_checkpoint` cannot be used.
        """
        training, captioner, reward = self.config.training, self.config.captioner, self.config.reward
        fits_a_reward = training.controls or not reward.checkpoint
        if training.supervised or not captioner.checkpoint:
            self.clips(Split.captioned).known_captions()
        needs_small_clap = not captioner.checkpoint or (fits_a_reward and not reward.clap_checkpoint)
        if needs_small_clap or (fits_a_reward and reward.matching_pairs_per_clip):
            self.clips(Split.clap).known_captions()
        if fits_a_reward and reward.clap_checkpoint:
            _ = self.given_clap
        if fits_a_reward and reward.preferences:
            _ = self.given_preferences
        elif fits_a_reward:
            self.clips(Split.preference).known_scenes()
        if training.supervised:
            self.clips(Split.rl).known_captions()
        self.clips(Split.heldout).known_scenes()

    @cached_property
    def clap(self) -> StageResult:
        """The small CLAP, trained on the captions of the `clap` split."""
        clips = self.clips(Split.clap)
        known = clips.known_captions()
        config = self.config.reward.clap

        def build(path: Path) -> None:
            heard = self._log_mel(Split.clap)
            captions = [known[position][0] for position in heard.positions]
            with progress_bar("train the small CLAP", config.num_epochs) as advance:
                clap, metrics = train_clap(
                    heard.features,
                    captions,
                    config,
                    lambda progress: advance(f"loss {progress.train_loss:.2f}"),
                    seed=self.config.seed,
                )
            clap.save(path)
            (path / METRICS_FILE).write_text(json.dumps(asdict(metrics), indent=2))

        return self._run("clap", {"clips": clips.key, "clap": config, "seed": self.config.seed}, build)

    @cached_property
    def given_clap(self) -> Clap:
        """The pretrained CLAP in `reward.clap_checkpoint`; every reward model over it keeps a copy."""
        reward = self.config.reward
        if reward.clap_checkpoint.endswith(".pt"):
            return LaionClap.from_checkpoint(Path(reward.clap_checkpoint), reward.clap_tokenizer)
        return HfClap.load(reward.clap_checkpoint)

    @cached_property
    def baseline(self) -> StageResult:
        """The captioner that PPO starts from: supervised here, or a copy of `captioner.checkpoint`."""
        config = self.config
        if config.captioner.checkpoint:
            source = Path(config.captioner.checkpoint)
            stamp = max((file.stat().st_mtime for file in source.rglob("*")), default=0.0)
            return self._run(
                "baseline",
                {"checkpoint": str(source.resolve()), "modified": stamp},
                lambda path: load_captioner(source).save(path),
            )
        clips = self.clips(Split.captioned)
        captions = [*chain.from_iterable(clips.known_captions())]
        texts = [own[0] for own in self.clips(Split.clap).known_captions()] if config.sft.text_epochs else []

        def build(path: Path) -> None:
            with torch.random.fork_rng():
                torch.manual_seed(config.seed)
                captioner = build_prefix_captioner(
                    config.captioner,
                    build_word_tokenizer([*vocabulary(clips.lexicon), *captions, *texts]),
                    encoder_channels=config.reward.clap.audio_channels,
                    dropout=config.sft.dropout,
                )
            captioner.audio_tower.load_state_dict(SmallClap.load(self.clap.path).audio_tower.tower.state_dict())
            if texts:
                self._teach_language(captioner, texts)
            self._supervise(captioner, [clips], config.sft, "train the baseline")
            captioner.save(path)

        facts = {"clips": clips.key, "clap": self.clap.key, "captioner": config.captioner, "sft": config.sft}
        return self._run("baseline", {**facts, "sampling": config.sampling, "seed": config.seed}, build)

    @property
    def preferences(self) -> StageResult:
        """Pairs of captions with votes on them, of people where there are any."""
        return self.given_preferences if self.config.reward.preferences else self.simulated_preferences

    @cached_property
    def given_preferences(self) -> StageResult:
        """A copy of the pairs in `reward.preferences` that are about clips of the `preference` split."""
        source, clips = Path(self.config.reward.preferences), self.clips(Split.preference)
        pairs = read_given_pairs(source, clips)
        facts: dict[str, object] = {"clips": clips.key, "pairs": hashlib.sha256(source.read_bytes()).hexdigest()}
        return self._run("preferences-given", facts, lambda path: write_pairs(pairs, path / PAIRS_FILE))

    @cached_property
    def simulated_preferences(self) -> StageResult:
        """Pairs of the baseline's captions, judged by the simulated annotators."""
        clips = self.clips(Split.preference)
        clips.known_scenes()  # before the stages that this one needs
        pairs_per_clip = self.config.reward.pairs_per_clip

        def build(path: Path) -> None:
            captioner = load_captioner(self.baseline.path)
            heard = self._hear(clips, captioner.features, "listen (preference)")
            pairs = simulate_preferences(
                captioner, heard, clips, pairs_per_clip, self.config.sampling, seed=self.config.seed
            )
            write_pairs(pairs, path / PAIRS_FILE)

        facts = {"clips": clips.key, "baseline": self.baseline.key, "pairs_per_clip": pairs_per_clip}
        return self._run("preferences", {**facts, "sampling": self.config.sampling, "seed": self.config.seed}, build)

    def reward(self, kind: HeadKind) -> StageResult:
        """The reward model with a head of this kind, fitted on the preference pairs."""
        config = replace(self.config.reward.head, kind=kind)
        terms = self.config.reward.text_terms
        pretrained = bool(self.config.reward.clap_checkpoint)

        def build(path: Path) -> None:
            heard = self._heard_by_reward(Split.preference)
            pairs = read_pairs(self.preferences.path / PAIRS_FILE)
            pairs = keep_pairs(pairs, heard.clip_ids, "their clips could not be read")
            others, matching = self._matching_pairs(voted_on=set(heard.clip_ids))
            listened = [heard, *others]
            clap: Clap = self.given_clap if pretrained else SmallClap.load(self.clap.path)
            with progress_bar(f"fit the {kind.value} reward", config.num_epochs) as advance:
                fitted = fit_preferences(
                    clap,
                    _joined(listened),
                    [clip_id for some in listened for clip_id in some.clip_ids],
                    pairs,
                    config,
                    lambda progress: advance(f"loss {progress.validation_loss:.3f}"),
                    seed=self.config.seed,
                    matching=matching,
                )
            ClapReward(fitted.clap, fitted.head, terms, sigmoid_output=config.sigmoid_output).save(path)
            (path / METRICS_FILE).write_text(json.dumps(asdict(fitted.metrics), indent=2))

        clap_key = self.given_clap.fingerprint if pretrained else self.clap.key
        facts = {"pairs": self.preferences.key, "clap": clap_key, "head": config, "terms": terms}
        facts |= {"matching_pairs_per_clip": self.config.reward.matching_pairs_per_clip, "seed": self.config.seed}
        return self._run(f"reward-{kind.value}", facts, build)

    @cached_property
    def given_reward(self) -> StageResult:
        """A copy of `reward.checkpoint`, so that what changes there later changes no run."""
        source = Path(self.config.reward.checkpoint)
        reward = ClapReward.load(source)

        def build(path: Path) -> None:
            reward.save(path)
            if (source / METRICS_FILE).exists():
                shutil.copy(source / METRICS_FILE, path)

        return self._run("reward-given", {"version": reward.version}, build)

    @cached_property
    def supervised(self) -> StageResult:
        """The comparison that PPO does without: the baseline, taught the true captions of PPO's audio as well."""
        captioned, rl = self.clips(Split.captioned), self.clips(Split.rl)
        sft = replace(self.config.sft, num_epochs=self.config.training.supervised_epochs)

        def build(path: Path) -> None:
            captioner = load_captioner(self.baseline.path)
            self._supervise(captioner, [captioned, rl], sft, "train the supervised comparison")
            captioner.save(path)

        facts = {"baseline": self.baseline.key, "captioned": captioned.key, "rl": rl.key, "sft": sft}
        return self._run("supervised", {**facts, "seed": self.config.seed}, build)

    def _matching_pairs(self, voted_on: set[str]) -> tuple[list[HeardClips | EmbeddedClips], list[PreferencePair]]:
        """Matching pairs of the CLAP's own clips, where they are asked for, and these clips."""
        per_clip = self.config.reward.matching_pairs_per_clip
        if not per_clip:
            return [], []
        clips, heard = self.clips(Split.clap), self._heard_by_reward(Split.clap)
        return [heard], draw_matching_pairs(clips, heard, per_clip, without=voted_on, seed=self.config.seed)

    def _teach_language(self, captioner: Captioner, texts: Sequence[str]) -> None:
        config = self.config
        with progress_bar("teach the baseline language", config.sft.text_epochs) as advance:
            teach_language(
                captioner,
                captioner.features([SILENCE]),
                texts,
                config.sft,
                config.seed,
                lambda _, loss: advance(f"loss {loss:.2f}"),
            )

    def _supervise(self, captioner: Captioner, splits: list[SplitClips], config: SftConfig, description: str) -> None:
        known = [clips.known_captions() for clips in splits]
        heard = [self._hear(clips, captioner.features, "listen (captioned)") for clips in splits]
        captions = [mine[position] for mine, some in zip(known, heard, strict=True) for position in some.positions]
        with progress_bar(description, config.num_epochs) as advance:
            supervise(
                captioner,
                join_features([some.features for some in heard]),
                captions,
                config,
                self.config.seed,
                lambda _, loss: advance(f"loss {loss:.2f}"),
            )

    def forget_audio(self) -> None:
        """Free the memory of frames and embeddings that no later stage asks for."""
        self._log_mels.clear()
        self._embedded.clear()

    def _heard_by_reward(self, split: Split) -> HeardClips | EmbeddedClips:
        """The clips of a split as the reward model's CLAP hears them, kept for the controls that follow."""
        if not self.config.reward.clap_checkpoint:
            return self._log_mel(split)
        if split not in self._embedded:
            embedded = embed(self.clips(split).source, self.given_clap.embed_clips, f"embed ({split.value})")
            self.quarantined += embedded.quarantined
            self._embedded[split] = embedded
        return self._embedded[split]

    def _log_mel(self, split: Split) -> HeardClips:
        """The log-mel frames of a split, kept for the stages that follow: a CLAP and two rewards ask for the same."""
        if split not in self._log_mels:
            self._log_mels[split] = self._hear(self.clips(split), LogMel(LogMelConfig()), f"listen ({split.value})")
        return self._log_mels[split]

    def _hear(
        self, clips: SplitClips, make_features: Callable[[Sequence[Clip]], PolicyFeatures], description: str
    ) -> HeardClips:
        heard = hear(clips.source, make_features, description)
        self.quarantined += heard.quarantined
        return heard

    def _run(self, name: str, depends_on: dict[str, object], build: Callable[[Path], None]) -> StageResult:
        result = self.cache.get(name, depends_on, build)
        self.results[name] = result
        return result


def _joined(heard: Sequence[HeardClips | EmbeddedClips]) -> HeardAudio:
    """The audio of several splits under one another; all were heard by the same CLAP."""
    embedded = [some.embeddings for some in heard if isinstance(some, EmbeddedClips)]
    if embedded:
        joined: Float32[np.ndarray, "clip dim"] = np.concatenate(embedded)
        return joined
    return join_features([some.features for some in heard if isinstance(some, HeardClips)])


def run_stage(config: RunConfig, name: str) -> Path:
    """Run one stage and those it needs; return the folder of its result."""
    stages = Stages(config)
    if name == "clap":
        return stages.clap.path
    if name == "sft":
        return stages.baseline.path
    if name == "prefs":
        return stages.simulated_preferences.path
    if name == "reward":
        return stages.reward(config.reward.head.kind).path
    raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {name!r}")
