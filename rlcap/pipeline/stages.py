"""The stages before PPO, and the supervised comparison, each cached by what it depends on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from reward_server.clap import Clap
from reward_server.clap_training import train_clap
from reward_server.custom_terms import find_text_terms
from reward_server.hf_clap import HfClap
from reward_server.laion_clap_backend import LaionClap
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from rlcap.captioners.loading import adopt_captioner, check_checkpoint, load_captioner
from rlcap.captioners.prefix_parts import check_parts
from rlcap.config.captioner import CaptionerConfig
from rlcap.config.data import SourceKind, Split
from rlcap.config.reward import HeadKind
from rlcap.config.run import RunConfig
from rlcap.finite_weights import refuse_files
from rlcap.pipeline.clips import SplitClips, open_split
from rlcap.pipeline.listening import Audio, Heard, Listener, join_features
from rlcap.pipeline.matching_pairs import draw_matching_pairs
from rlcap.pipeline.preference_pairs import keep_pairs, read_given_pairs, simulate_preferences
from rlcap.pipeline.progress import announce, progress_bar
from rlcap.pipeline.reward_fitting import (
    FIT_FILE,
    FIT_PAGE,
    HELDOUT_FILE,
    METRICS_FILE,
    FitPaths,
    RewardFitting,
    fitting_without_audio,
    write_fit_report,
)
from rlcap.pipeline.stage_cache import StageCache, StageResult
from rlcap.pipeline.teaching import Teacher
from rlcap.preferences.pairs import PreferencePair, read_pairs, write_pairs

STAGES = ("clap", "sft", "prefs")
PAIRS_FILE = "pairs.parquet"


class Stages:
    """The stages of one configuration; each property runs its stage, or finds it in the cache."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.cache = StageCache(Path(config.cache_dir))
        self.results: dict[str, StageResult] = {}
        self._clips: dict[Split, SplitClips] = {}
        self.listener = Listener(self.clips, self.cache)
        self._teacher = Teacher(config, self.clips, self.listener)

    def clips(self, split: Split) -> SplitClips:
        """The clips of a split, with what is known of them."""
        if split not in self._clips:
            clips = open_split(self.config.data, split, self.cache)
            if clips.quarantined and not any(opened.quarantined for opened in self._clips.values()):
                first, number = clips.quarantined[0], len(clips.quarantined)
                announce(f"{number} rows or files of the data are left out, the first: {first.path}: {first.reason}")
            self._clips[split] = clips
        return self._clips[split]

    def data_checks(self) -> Iterator[Callable[[], object]]:
        """Yield what refuses data that a later stage of the whole job could not use, before the first one begins.

        Each raises DataError where the clips of a split lack captions or labels that are needed, or given pairs cannot
        be used, and CheckpointError where `reward.clap_checkpoint` cannot be.
        """
        training, captioner, reward = self.config.training, self.config.captioner, self.config.reward
        fits_a_reward = self.fits_a_reward
        if training.supervised or captioner.supervise or not captioner.checkpoint:
            yield lambda: self.clips(Split.captioned).known_captions()
        hears_by_small_clap = not captioner.checkpoint and not captioner.audio_encoder
        needs_small_clap = hears_by_small_clap or (fits_a_reward and not reward.clap_checkpoint)
        if needs_small_clap or (fits_a_reward and reward.matching_pairs_per_clip):
            yield lambda: self.clips(Split.clap).known_captions()
        if fits_a_reward and reward.clap_checkpoint:
            yield lambda: self.given_clap
        if fits_a_reward and reward.preferences:
            yield lambda: self.given_preferences
        elif fits_a_reward:
            yield lambda: self.clips(Split.preference).known_scenes()
        if training.supervised:
            yield lambda: self.clips(Split.rl).known_captions()
        yield lambda: self.clips(Split.heldout).known_scenes()

    def check_settings(self) -> None:
        """Refuse what the captioner is made of, as far as that shows without its weights, and unknown text terms.

        Raises:
            CheckpointError: a directory of the captioner cannot be used.
            ConfigError: `reward.text_terms.custom` names a term that is not known here.
        """
        self._check_captioner()
        if self.fits_a_reward:
            find_text_terms(self.config.reward.text_terms.custom)

    @property
    def fits_a_reward(self) -> bool:
        """Whether a reward model is fitted on the way, if only for a control."""
        return self.config.training.controls or not self.config.reward.checkpoint

    @cached_property
    def clap(self) -> StageResult:
        """The small CLAP, trained on the captions of the `clap` split."""
        clips = self.clips(Split.clap)
        known = clips.known_captions()
        config = self.config.reward.clap

        def build(path: Path) -> None:
            heard = self.listener.log_mel(Split.clap)
            captions = [known[position][0] for position in heard.positions]
            with progress_bar("train the small CLAP", config.num_epochs) as advance:
                clap, metrics = train_clap(
                    heard.audio,
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
        self._check_captioner()
        config, captioner = self.config, self.config.captioner
        facts: dict[str, object] = {"captioner": captioner, "given": _given_files(captioner)}
        if captioner.checkpoint and not captioner.supervise:
            return self._run(
                "baseline", facts, lambda path: adopt_captioner(captioner.checkpoint, captioner).save(path)
            )
        clips = self.clips(Split.captioned)
        clips.known_captions()
        facts |= {"clips": clips.key, "sft": config.sft, "sampling": config.sampling, "seed": config.seed}
        small_clap = None if captioner.checkpoint or captioner.audio_encoder else self.clap
        facts |= {"clap": small_clap and small_clap.key, "texts": self._teacher.texts()}

        def build(path: Path) -> None:
            learner = (
                adopt_captioner(captioner.checkpoint, captioner, to_teach=True, device=self._teacher.device)
                if captioner.checkpoint
                else self._teacher.new_captioner(small_clap.path if small_clap else None)
            )
            self._teacher.supervise(learner, [Split.captioned], config.sft, "train the baseline")
            learner.save(path)

        return self._run("baseline", facts, build)

    @property
    def preferences(self) -> StageResult:
        """Pairs of captions with votes on them, of people where there are any."""
        return self.given_preferences if self.config.reward.preferences else self.simulated_preferences

    @cached_property
    def given_preferences(self) -> StageResult:
        """A copy of the pairs in `reward.preferences`: where there is audio, of those about the `preference` split."""
        source = Path(self.config.reward.preferences)
        clips = None if self.config.data.kind is SourceKind.none else self.clips(Split.preference)
        pairs = read_given_pairs(source, clips)
        facts: dict[str, object] = {"pairs": hashlib.sha256(source.read_bytes()).hexdigest()}
        facts["clips"] = clips.key if clips else ""
        return self._run("preferences-given", facts, lambda path: write_pairs(pairs, path / PAIRS_FILE))

    @cached_property
    def simulated_preferences(self) -> StageResult:
        """Pairs of the baseline's captions, judged by the simulated annotators."""
        clips = self.clips(Split.preference)
        clips.known_scenes()  # before the stages that this one needs
        pairs_per_clip = self.config.reward.pairs_per_clip

        def build(path: Path) -> None:
            captioner = load_captioner(self.baseline.path)
            heard = self.listener.hear(clips, captioner.features, "listen (preference)")
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
        find_text_terms(terms.custom)  # before the stages that this one needs

        def build(path: Path) -> None:
            fitting = self.fitting(kind)
            num_epochs = config.num_epochs * config.num_members
            with progress_bar(f"fit the {kind.value} reward", num_epochs) as advance:
                fitted = fitting.fit(fitting.split, lambda progress: advance(f"loss {progress.validation_loss:.3f}"))
            ClapReward(fitted.clap, fitted.head, terms, sigmoid_output=config.sigmoid_output).save(path)
            (path / METRICS_FILE).write_text(json.dumps(asdict(fitted.metrics), indent=2))
            fitted.heldout.save(path / HELDOUT_FILE)

        facts = {"pairs": self.preferences.key, "clap": self._clap_facts, "head": config, "terms": terms}
        facts |= {"matching_pairs_per_clip": self.config.reward.matching_pairs_per_clip, "seed": self.config.seed}
        return self._run(f"reward-{kind.value}", facts, build)

    def fit_report(self, kind: HeadKind) -> StageResult:
        """How good the reward model with a head of this kind is; takes further fits, which a run does without."""
        reward, config = self.reward(kind), self.config.reward.fit_report
        return self._run(
            f"fit-report-{kind.value}",
            {"reward": reward.key, "fit_report": config},
            lambda path: write_fit_report(path, reward.path, self.fitting(kind), config),
        )

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
        splits = [Split.captioned, Split.rl]
        sft = replace(self.config.sft, num_epochs=self.config.training.supervised_epochs)

        def build(path: Path) -> None:
            captioner = adopt_captioner(
                self.baseline.path, self.config.captioner, to_teach=True, device=self._teacher.device
            )
            self._teacher.supervise(captioner, splits, sft, "train the supervised comparison")
            captioner.save(path)

        facts = {"baseline": self.baseline.key, "clips": [self.clips(split).key for split in splits], "sft": sft}
        return self._run("supervised", {**facts, "seed": self.config.seed}, build)

    def fitting(self, kind: HeadKind) -> RewardFitting:
        """What a fit of the reward model reads."""
        if self.config.data.kind is SourceKind.none:
            return fitting_without_audio(
                read_pairs(self.preferences.path / PAIRS_FILE),
                self.given_clap if self.config.reward.clap_checkpoint else None,
                self.config.reward,
                self.config.seed,
            )
        if self.config.reward.clap_checkpoint:
            given = self.given_clap
            return self._fitting_on(given, kind, lambda split: self.listener.embedded(split, given), np.concatenate)
        return self._fitting_on(SmallClap.load(self.clap.path), kind, self.listener.log_mel, join_features)

    def _fitting_on(
        self,
        clap: Clap,
        kind: HeadKind,
        hear: Callable[[Split], Heard[Audio]],
        join: Callable[[Sequence[Audio]], Audio],
    ) -> RewardFitting:
        """The same over a CLAP that hears clips in its own way."""
        heard = [hear(Split.preference)]
        matching: list[PreferencePair] = []
        pairs = read_pairs(self.preferences.path / PAIRS_FILE)
        clip_ids = heard[0].clip_ids
        if per_clip := self.config.reward.matching_pairs_per_clip:
            clips, own = self.clips(Split.clap), hear(Split.clap)
            matching = draw_matching_pairs(clips, own, per_clip, without=set(clip_ids), seed=self.config.seed)
            heard.append(own)
        return RewardFitting(
            make_clap=lambda _: clap,
            audio=join([some.audio for some in heard]),
            clip_ids=tuple(clip_id for some in heard for clip_id in some.clip_ids),
            pairs=keep_pairs(pairs, clip_ids, "their clips could not be read"),
            matching=matching,
            config=replace(self.config.reward.head, kind=kind),
            seed=self.config.seed,
        )

    @property
    def _clap_facts(self) -> object:
        """What decides the CLAP under the head."""
        if self.config.reward.clap_checkpoint:
            return self.given_clap.fingerprint
        return self.config.reward.clap if self.config.data.kind is SourceKind.none else self.clap.key

    def _check_captioner(self) -> None:
        captioner = self.config.captioner
        if captioner.checkpoint:
            check_checkpoint(captioner.checkpoint, captioner)
        check_parts(captioner)

    def _run(self, name: str, depends_on: dict[str, object], build: Callable[[Path], None]) -> StageResult:
        def build_sound(path: Path) -> None:
            build(path)
            refuse_files(path, f"the stage {name}")

        result = self.cache.get(name, depends_on, build_sound)
        self.results[name] = result
        return result


def _given_files(captioner: CaptionerConfig) -> list[list[object]]:
    """What tells whether the directories that a captioner comes from are as they were."""
    given = [Path(path) for path in (captioner.checkpoint, captioner.language_model, captioner.audio_encoder) if path]
    return [[str(path.resolve()), max(file.stat().st_mtime for file in path.rglob("*"))] for path in given]


def run_stage(config: RunConfig, name: str) -> Path:
    """Run one stage and those it needs; return the folder of its result."""
    if name == "sft":
        return Stages(replace(config, captioner=replace(config.captioner, supervise=True))).baseline.path
    stages = Stages(config)
    if name == "clap":
        return stages.clap.path
    if name == "prefs":
        return stages.simulated_preferences.path
    raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {name!r}")


def fit_reward(config: RunConfig) -> FitPaths:
    """Fit the reward model and measure the fit."""
    stages, kind = Stages(config), config.reward.head.kind
    reward, report = stages.reward(kind).path, stages.fit_report(kind).path
    return FitPaths(reward, report / FIT_FILE, report / FIT_PAGE)
