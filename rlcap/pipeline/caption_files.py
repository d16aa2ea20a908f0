"""Captions for any audio files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rlcap.algorithm.caption_ppo import CAPTIONER
from rlcap.audio.decoding import DecodeLimits, decode
from rlcap.captioners.loading import load_captioner
from rlcap.checkpoint import latest_good
from rlcap.config.captioner import SamplingConfig
from rlcap.config.data import DataConfig
from rlcap.errors import CheckpointError, ClipError
from rlcap.pipeline.clips import HeardClips
from rlcap.pipeline.comparison import TUNED, greedy_captions
from rlcap.run_directory import RunDirectory
from rlcap.types import Quarantined


def caption(run_or_captioner: Path, files: Sequence[Path]) -> Iterator[tuple[Path, str] | Quarantined]:
    """Caption each file by the tuned captioner of a run, or by a captioner directory; bad files are told apart.

    Raises:
        CheckpointError: there is no captioner.
    """
    captioner = load_captioner(_captioner_of(run_or_captioner))
    limits = DecodeLimits.of(DataConfig())
    for file in files:
        try:
            clip = decode(file, str(file), limits)
        except ClipError as fault:
            yield Quarantined(str(file), str(fault))
            continue
        heard = HeardClips(captioner.features([clip]), (clip.clip_id,), (0,), ())
        yield file, greedy_captions(captioner, heard, SamplingConfig().max_new_tokens)[0]


def _captioner_of(path: Path) -> Path:
    if (path / "config.json").is_file():
        return path
    run = RunDirectory(path)
    if (path / "captioners" / TUNED).is_dir():
        return path / "captioners" / TUNED
    checkpoint = latest_good(run.checkpoints)
    if checkpoint is None:
        raise CheckpointError(f"{path} is neither a captioner directory nor a run with a checkpoint")
    return checkpoint / CAPTIONER
