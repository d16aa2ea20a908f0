"""Whether the disks have room for what a run leaves on them.

Counted is what follows from the settings: checkpoints and captioners. A run is refused where even the least of it does
not fit; where only stages, controls or other people's files could fill the disk, that is announced.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from rlcap.config.run import RunConfig
from rlcap.errors import ConfigError
from rlcap.pipeline.captioner_trial import TriedCaptioner
from rlcap.pipeline.progress import announce
from rlcap.planning.memory import ADAM_MOMENTS, FLOAT32
from rlcap.run_directory import RunDirectory

CONTROLS = 2
GB = 10**9
MARGIN = 1.2
"""Stages, metrics and other people's files take what is not counted."""


@dataclass(frozen=True, slots=True)
class DiskNeeds:
    """Bytes that a run writes in all."""

    run_dir: int
    """Checkpoints at the time when one more is written, and the captioners of the comparison."""
    cache_dir: int
    """Captioners of stages and controls, and the checkpoints of one control."""


def check_disks(config: RunConfig, captioner: TriedCaptioner) -> None:
    """Refuse a run that its disks surely have no room for; announce where it is tight.

    Raises:
        ConfigError: names the folder, what it needs, and settings that need less.
    """
    needs = disk_needs(config, captioner)
    run_dir, cache_dir = Path(config.run_dir), Path(config.cache_dir)
    free, least = _free(run_dir), needs.run_dir
    if least > free:
        raise ConfigError(
            f"run_dir={run_dir} needs {least / GB:.1f} GB for checkpoints and captioners, and its disk has "
            f"{free / GB:.1f} GB left: make room, or set training.keep_last=1, training.checkpoint_dir to another "
            "place, or captioner.decoder=lora"
        )
    if _device(run_dir) == _device(cache_dir):
        least += needs.cache_dir
    elif MARGIN * needs.cache_dir > _free(cache_dir):
        _announce_tight("cache_dir", cache_dir, needs.cache_dir)
    if MARGIN * least > free:
        _announce_tight("run_dir", run_dir, least)


def check_next_checkpoint(run: RunDirectory) -> None:
    """Refuse to resume a run where there is no room for one more checkpoint like its newest.

    Raises:
        ConfigError: says how much is missing.
    """
    newest = max(run.checkpoints.glob("update-*"), default=None)
    needed = 0 if newest is None else sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
    if needed > (free := _free(run.path)):
        raise ConfigError(
            f"run_dir={run.path} needs {needed / GB:.1f} GB for its next checkpoint, and its disk has "
            f"{free / GB:.1f} GB left: make room"
        )


def disk_needs(config: RunConfig, captioner: TriedCaptioner) -> DiskNeeds:
    """Return what checkpoints and captioners take."""
    training, whole = config.training, captioner.num_bytes
    tuned = captioner.num_trained * FLOAT32 if config.captioner.adapters_alone else whole
    checkpoint = tuned + (1 + ADAM_MOMENTS) * captioner.num_trained * FLOAT32
    planned = math.ceil(training.num_updates / training.checkpoint_every_updates)
    kept = min(planned, training.keep_last + training.keep_best)
    here = 1 if training.checkpoint_dir else kept
    controls = CONTROLS if training.controls else 0
    supervised = whole if training.supervised else 0
    return DiskNeeds(
        run_dir=(here + 1) * checkpoint + whole + tuned * (1 + controls) + supervised,
        cache_dir=whole + supervised + tuned * controls + ((kept + 1) * checkpoint if controls else 0),
    )


def _announce_tight(name: str, folder: Path, needed: int) -> None:
    announce(
        f"{name}={folder} may run out of room: about {needed / GB:.1f} GB are needed, and its disk has "
        f"{_free(folder) / GB:.1f} GB left"
    )


def _free(folder: Path) -> int:
    usage = shutil.disk_usage(_there(folder))
    return usage.free if usage.total else sys.maxsize  # what has no size at all is no disk


def _device(folder: Path) -> int:
    return _there(folder).stat().st_dev


def _there(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
