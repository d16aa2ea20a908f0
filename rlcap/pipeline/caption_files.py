"""Captions for any audio files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rlcap.algorithm.caption_ppo import CAPTIONER
from rlcap.audio.decoding import DecodeLimits, decode
from rlcap.captioners.adapters import holds_adapters
from rlcap.captioners.checkpoint_files import CONFIG_FILE
from rlcap.captioners.loading import load_captioner
from rlcap.checkpoint import latest_good
from rlcap.config.load import load_config, read_config
from rlcap.config.run import RunConfig
from rlcap.errors import CheckpointError, ClipError
from rlcap.pipeline.comparison import TUNED, greedy_captions
from rlcap.pipeline.listening import Heard
from rlcap.run_directory import RunDirectory
from rlcap.types import Quarantined


def caption(
    run_or_captioner: Path, files: Sequence[Path], overrides: Sequence[str] = ()
) -> Iterator[tuple[Path, str] | Quarantined]:
    """Caption each file by the newest captioner of a run, or by a captioner directory; bad files are told apart.

    A run's settings say how long captions and clips may be, the defaults where there is no run; `overrides` such as
    `data.max_duration_s=600` change either.

    Raises:
        CheckpointError: there is no captioner.
        ConfigError: the run has no settings that can be read, or `overrides` have faults.
    """
    directory, config = _open(run_or_captioner, overrides)
    captioner, limits = load_captioner(directory), DecodeLimits.of(config.data)
    for file in files:
        try:
            clip = decode(file, str(file), limits)
        except ClipError as fault:
            yield Quarantined(str(file), str(fault))
            continue
        heard = Heard(captioner.features([clip]), (clip.clip_id,), (0,), ())
        yield file, greedy_captions(captioner, heard, config.sampling.max_new_tokens)[0]


def _open(path: Path, overrides: Sequence[str]) -> tuple[Path, RunConfig]:
    """Find a captioner and its settings; a finished run that was stopped in more updates has newer checkpoints."""
    if (path / CONFIG_FILE).is_file() or holds_adapters(path):
        return path, load_config(overrides)
    run = RunDirectory(path)
    checkpoint = latest_good(run.checkpoints)
    if checkpoint is not None:
        return checkpoint / CAPTIONER, read_config(run.config, overrides)
    if (run.captioners / TUNED).is_dir():
        return run.captioners / TUNED, read_config(run.config, overrides)
    raise CheckpointError(f"{path} is neither a captioner directory nor a run with a checkpoint")
