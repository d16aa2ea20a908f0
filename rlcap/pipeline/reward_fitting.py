"""What a fit of the reward model reads, so that it can be repeated on other clips, and the report on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from reward_server.clap import Clap
from reward_server.fit_evaluation import evaluate_fit, num_fits
from reward_server.fitting import FitProgress, FittedReward, draw_split, fit_preferences
from reward_server.small_clap import SmallClap
from reward_server.tower_inputs import HeardAudio
from rlcap.audio.features import LogMelConfig
from rlcap.config.reward import FitReportConfig, HeadConfig, RewardConfig
from rlcap.evaluation.scored_pairs import ScoredPairs
from rlcap.pipeline.progress import progress_bar
from rlcap.preferences.clip_split import ClipSplit
from rlcap.preferences.pairs import PreferencePair
from rlcap.report.fit_page import render_fit
from rlcap.report.page import write_page
from rlcap.tables.json_values import read_json_object

METRICS_FILE, HELDOUT_FILE = "metrics.json", "heldout_pairs.parquet"
"""Beside a reward model that was fitted here: losses and counts of the fit, held-out pairs with their scores."""
FIT_FILE, FIT_PAGE = "fit.json", "fit.html"
"""The report on a fit."""


@dataclass(frozen=True, slots=True)
class FitPaths:
    """Where a reward model and the report on its fit are."""

    reward: Path
    figures: Path
    page: Path


@dataclass(frozen=True, slots=True)
class RewardFitting:
    """Audio, pairs and settings of a fit."""

    make_clap: Callable[[ClipSplit], Clap]
    """The CLAP under the head; one that is new to the pairs may know the training captions alone."""
    audio: HeardAudio
    clip_ids: tuple[str, ...]
    pairs: Sequence[PreferencePair]
    matching: Sequence[PreferencePair]
    config: HeadConfig
    seed: int

    @property
    def split(self) -> ClipSplit:
        """The parts of the clips by the settings."""
        return draw_split(self.pairs, self.config, seed=self.seed)

    def fit(self, split: ClipSplit, on_epoch: Callable[[FitProgress], None] | None = None) -> FittedReward:
        """Fit on these parts of the clips."""
        return fit_preferences(
            self.make_clap(split),
            self.audio,
            self.clip_ids,
            self.pairs,
            self.config,
            on_epoch,
            seed=self.seed,
            matching=self.matching,
            split=split,
        )


def fitting_without_audio(
    pairs: Sequence[PreferencePair], given_clap: Clap | None, config: RewardConfig, seed: int
) -> RewardFitting:
    """A fit on captions alone: by a given CLAP, or by a new text tower that knows the words of the training pairs."""

    def new_clap(split: ClipSplit) -> SmallClap:
        among = set(split.training)
        captions = [text for pair in pairs if pair.clip_id in among for text in (pair.caption_a, pair.caption_b)]
        return SmallClap.for_captions(config.clap, captions, LogMelConfig(), seed=seed).eval()

    clip_ids = tuple(sorted({pair.clip_id for pair in pairs}))
    dim = given_clap.embedding_dim if given_clap else config.clap.embedding_dim
    return RewardFitting(
        make_clap=lambda split: given_clap or new_clap(split),
        audio=np.zeros((len(clip_ids), dim), dtype=np.float32),
        clip_ids=clip_ids,
        pairs=pairs,
        matching=(),
        config=config.head,
        seed=seed,
    )


def write_fit_report(path: Path, reward: Path, fitting: RewardFitting, config: FitReportConfig) -> None:
    """Measure the reward model in the folder `reward`, and write fit.json and fit.html into `path`."""
    with progress_bar("fit again for the report", num_fits(config)) as advance:

        def fit(split: ClipSplit) -> FittedReward:
            fitted = fitting.fit(split)
            advance(f"{fitted.metrics.num_train_pairs} pairs")
            return fitted

        heldout = ScoredPairs.load(reward / HELDOUT_FILE)
        measured = evaluate_fit(heldout, fitting.pairs, fit, fitting.config, config, seed=fitting.seed)
    metrics = read_json_object(reward / METRICS_FILE)
    training = {name: metrics[name] for name in metrics if name.startswith("num_")}
    text = json.dumps({"title": reward.name, "training": training, **asdict(measured)}, indent=2, allow_nan=False)
    (path / FIT_FILE).write_text(text + "\n", encoding="utf-8")
    write_page(render_fit(json.loads(text)), path / FIT_PAGE)
