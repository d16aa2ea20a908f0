"""What a run checks before its first stage: whatever would end it hours later, and shows already.

`CHECKS` lists them in order. All are made, and all faults are told at once; what is merely tight is announced.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias

from rlcap.algorithm.ray_session import OBJECT_STORE_BYTES, SHARED_MEMORY, check_ray
from rlcap.audio.source import RecordedSource
from rlcap.config.data import SourceKind, Split
from rlcap.config.run import RunConfig
from rlcap.errors import ConfigError, DataError, PreflightError, RlcapError
from rlcap.metrics import require_trackers
from rlcap.pipeline.captioner_trial import TriedCaptioner, check_taught, try_captioner
from rlcap.pipeline.clips import open_audio
from rlcap.pipeline.disk_room import check_disks, check_next_checkpoint
from rlcap.pipeline.progress import announce
from rlcap.pipeline.rollout_ledger import read_ledger
from rlcap.pipeline.stages import Stages
from rlcap.pipeline.tuning import open_mirror
from rlcap.run_directory import RunDirectory
from rlcap.writable import require_folder

Check: TypeAlias = "Callable[[Preflight], None]"


class Preflight:
    """What is about to run."""

    def __init__(self, config: RunConfig, stages: Stages) -> None:
        self.config = config
        self.stages = stages

    @property
    def run(self) -> RunDirectory:
        """Its folder, which need not be there yet."""
        return RunDirectory(Path(self.config.run_dir))

    @property
    def has_baseline(self) -> bool:
        """Whether a run that is resumed has its captioner already, whatever became of the one that it is of."""
        return self.config.resume and self.run.baseline.exists()

    @cached_property
    def trial(self) -> TriedCaptioner | RlcapError | None:
        """What became of the captioner's trial, which is made once; None where none is needed."""
        if self.has_baseline:
            return None
        try:
            return try_captioner(self.config)
        except RlcapError as fault:
            return fault


def check_before_stages(config: RunConfig, stages: Stages) -> None:
    """Make every check.

    Raises:
        RlcapError: what one check found; a `PreflightError` names what several found.
    """
    preflight = Preflight(config, stages)
    found = {check: _faults_of([partial(check, preflight)]) for check in CHECKS}
    faults = [fault for some in found.values() for fault in some]
    are_made = config.data.kind is SourceKind.soundscapes  # to be looked at, into the cache
    if not (found[check_cache] or (are_made and faults)):
        faults += _faults_of((*stages.data_checks(), partial(check_captions, preflight)))
    _raise_all(faults)


def make_all(checks: Iterable[Callable[[], object]]) -> None:
    """Make some checks, and raise what they found as `check_before_stages` does."""
    _raise_all(_faults_of(checks))


def check_run_directory(preflight: Preflight) -> None:
    """The folder of the run takes files."""
    require_folder(preflight.run.path, "run_dir")


def check_cache(preflight: Preflight) -> None:
    """The folder of stages takes files."""
    require_folder(Path(preflight.config.cache_dir), "cache_dir")


def check_mirror(preflight: Preflight) -> None:
    """The place of copies can be reached and written to, and a new run finds no checkpoints of another one there."""
    mirror = open_mirror(preflight.config)
    if mirror is None:
        return
    found = mirror.updates()
    if found and not preflight.config.resume:
        raise ConfigError(
            f"training.checkpoint_dir={mirror.uri} holds checkpoints already, up to update {found[0]}: give "
            "an empty place, or resume the run that they are of"
        )
    mirror.try_writing()


def check_trackers(preflight: Preflight) -> None:
    """The packages of other trackers are installed."""
    require_trackers(preflight.config.tracking)


def check_ray_starts(preflight: Preflight) -> None:
    """Ray has a place for its sockets here, or a cluster answers that is large enough."""
    config = preflight.config
    check_ray(config.cluster, config.reward.num_shards)
    if not config.cluster.ray_address and SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
        if free < OBJECT_STORE_BYTES:
            announce(
                f"{SHARED_MEMORY} has room for {free / 2**20:.0f} MiB, and Ray's object store takes at least "
                f"{OBJECT_STORE_BYTES / 2**20:.0f}: it goes to a disk, and weights and rollouts take longer. Start a "
                "container with --shm-size=1g or more"
            )


def check_settings(preflight: Preflight) -> None:
    """What the settings name is there: directories of the captioner, text terms of the reward."""
    preflight.stages.check_settings()


def check_captioner(preflight: Preflight) -> None:
    """The captioner is read, tuned, saved and read again, and writes captions as long as are asked for."""
    if isinstance(preflight.trial, RlcapError):
        raise preflight.trial


def check_room(preflight: Preflight) -> None:
    """The disks have room for what the run leaves on them."""
    if preflight.config.resume:
        check_next_checkpoint(preflight.run)
    elif isinstance(preflight.trial, TriedCaptioner):
        check_disks(preflight.config, preflight.trial)


def check_captions(preflight: Preflight) -> None:
    """The decoder has positions for the captions that it is taught, and the tokenizer knows their words."""
    config, trial = preflight.config, preflight.trial
    if not isinstance(trial, TriedCaptioner):
        return
    teaches = config.captioner.supervise or not config.captioner.checkpoint
    wanted = {Split.captioned: teaches or config.training.supervised, Split.rl: config.training.supervised}
    for split in (split for split, is_taught in wanted.items() if is_taught):
        captions = [text for own in preflight.stages.clips(split).known_captions() for text in own]
        check_taught(captions, split, trial, config.sampling.max_new_tokens)


def check_same_clips(preflight: Preflight) -> None:
    """A run that is resumed finds the clips that it began with, wherever they are now."""
    config, run = preflight.config, preflight.run
    if not config.resume or config.data.kind is SourceKind.soundscapes or not any(run.ledger.glob("update-*.parquet")):
        return
    source = open_audio(config.data, preflight.stages.cache)
    assert isinstance(source, RecordedSource)
    ids = [source.record(position).clip_id for position in range(len(source))]
    for row in read_ledger(run).select(["positions", "num_clips", "clip_ids"]).to_pylist():
        here = {ids[position] for position in row["positions"] if position < len(ids)}
        gone = sorted(set(row["clip_ids"] or ()) - here)
        if row["num_clips"] != len(ids) or gone:
            missed = f", {gone[0]} among them" if gone else ""
            raise DataError(
                f"data.root={config.data.root} does not hold the clips that the run began with: there were "
                f"{row['num_clips']}{missed}, and {len(ids)} are here; give the folder that they are in now"
            )


CHECKS: tuple[Check, ...] = (
    check_run_directory,
    check_cache,
    check_mirror,
    check_trackers,
    check_ray_starts,
    check_settings,
    check_captioner,
    check_room,
    check_same_clips,
)


def _faults_of(checks: Iterable[Callable[[], object]]) -> list[RlcapError]:
    faults = []
    for check in checks:
        try:
            check()
        except RlcapError as fault:
            faults.append(fault)
    return faults


def _raise_all(faults: Iterable[RlcapError]) -> None:
    """Raise what was found, each fault once; return where there is nothing."""
    distinct = list({str(fault): fault for fault in faults}.values())
    if len(distinct) == 1:
        raise distinct[0]
    if distinct:
        lines = "\n".join(f"  {fault}" for fault in distinct)
        raise PreflightError(f"the run would fail for {len(distinct)} reasons:\n{lines}")
