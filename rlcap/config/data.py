"""Where clips come from, and which part of them each stage may see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from rlcap.config.section import Section, must_be_positive, must_not_be_negative


class SourceKind(Enum):
    """The layouts that rlcap reads."""

    soundscapes = "soundscapes"
    folder = "folder"
    manifest = "manifest"
    webdataset = "webdataset"
    parquet = "parquet"
    clotho = "clotho"
    audiocaps = "audiocaps"
    none = "none"
    """No audio at all: for a reward model that reads captions alone."""


class Split(Enum):
    """The parts of the data, by who may see them."""

    captioned = "captioned"
    """Audio and captions that supervise the baseline."""
    clap = "clap"
    """Audio and captions that train the small CLAP."""
    preference = "preference"
    """Audio whose baseline captions are judged in pairs."""
    rl = "rl"
    """Audio only: what PPO hears."""
    heldout = "heldout"
    """Audio and labels of the evaluation."""


@dataclass(kw_only=True)
class SoundscapesConfig(Section):
    """The synthetic world: how many clips of it each split holds."""

    seed: int = 0
    """Seed of the world: scenes, sounds and captions."""
    captioned: int = 400
    """Clips with captions for the baseline."""
    clap: int = 3000
    """Clips with captions for the small CLAP."""
    preference: int = 800
    """Clips whose baseline captions the simulated annotators judge."""
    rl: int = 1500
    """Clips without captions for PPO; 0 makes the stream endless."""
    heldout: int = 300
    """Clips for the evaluation."""
    num_workers: int = 2
    """Processes that synthesise clips."""

    def faults(self) -> Iterator[str]:
        """Report sizes that leave a stage without clips."""
        yield from must_be_positive(
            captioned=self.captioned,
            clap=self.clap,
            preference=self.preference,
            heldout=self.heldout,
            num_workers=self.num_workers,
        )
        yield from must_not_be_negative(seed=self.seed, rl=self.rl)


@dataclass(kw_only=True)
class DataConfig(Section):
    """A source of clips."""

    kind: SourceKind = SourceKind.soundscapes
    """Layout of the source: see docs/data.md."""
    root: str = ""
    """Folder that holds the recordings; paths in a manifest are relative to it."""
    manifest: str = ""
    """Table (CSV, TSV, JSONL, Parquet) below `root`, one row a clip; empty: `manifest.csv`, for kind `clotho`
    `clotho_captions_*.csv` and for kind `audiocaps` `*.csv`, whose patterns may fit several tables."""
    path_column: str = "path"
    """Column of the audio path (kind `manifest`)."""
    audio_dir: str = ""
    """Folder below `root` that paths in a manifest are relative to; empty: `root` itself."""
    audio_column: str = "audio"
    """Column of the encoded audio (kind `parquet`)."""
    keep_rows: dict[str, list[str]] = field(default_factory=dict)
    """Rows of a manifest that are used: for each of these columns, the values that a row may hold there."""
    clip_id_column: str = ""
    """Column of the clip id; empty: the path is the id."""
    label_columns: list[str] = field(default_factory=list)
    """Columns that name the sounds in a clip, for templates, annotators and judges; PPO never reads them."""
    caption_column: str = ""
    """Column of a human caption, where there is one."""
    split_column: str = ""
    """Column that says which split a row belongs to; empty: every row is in every split."""
    splits: dict[str, list[str]] = field(default_factory=dict)
    """For each split, the values of `split_column` that belong to it, such as `rl: ["3"]`; not listed: its own name."""
    min_duration_s: float = 0.1
    """Shorter clips are quarantined."""
    max_duration_s: float = 30.0
    """Longer clips are quarantined."""
    silence_dbfs: float = -80.0
    """Clips whose loudest sample lies below this level are quarantined as silent."""
    soundscapes: SoundscapesConfig = field(default_factory=SoundscapesConfig)

    def faults(self) -> Iterator[str]:
        """Report missing roots, unknown splits and impossible durations."""
        if self.kind not in (SourceKind.soundscapes, SourceKind.none) and not self.root:
            yield f"root must name the folder of the recordings for kind {self.kind.value}"
        known = [split.value for split in Split]
        for name in self.splits:
            if name not in known:
                yield f"splits.{name} is not a split; known here: {', '.join(known)}"
        if self.splits and not self.split_column:
            yield "split_column must be set where splits are given"
        yield from must_be_positive(min_duration_s=self.min_duration_s)
        if self.max_duration_s < self.min_duration_s:
            yield f"max_duration_s must be at least min_duration_s ({self.min_duration_s}), got {self.max_duration_s}"
