"""`rlcap train cluster=job`: the same command on a cluster, through Ray Jobs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import PurePosixPath

from rlcap.commands.terminal import say
from rlcap.config.run import RunConfig

_WHERE = ("resume", "run_dir", "cluster", "cluster.job_address", "cluster.start_timeout_s")
"""Settings that can be read here: those of a run that is resumed lie in its folder, on the cluster."""
_INSIDE = ("cluster.job_address=''", "cluster.ray_address=auto")
"""What the command is told in addition, once it is there."""


def is_for_a_cluster(overrides: Sequence[str]) -> bool:
    """Tell whether a run is to be handed over to Ray Jobs."""
    return bool(_read_here(overrides).cluster.job_address)


def run_on_cluster(overrides: Sequence[str], *, supervise: bool) -> int:
    """Hand a run over and follow it; returns its exit code. Ctrl-C ends the following, and not the run.

    Raises:
        ConfigError: the settings have faults, or name folders that mean nothing on a cluster.
        RunError: the cluster cannot be reached, or the job was stopped.
    """
    from rlcap.config.load import load_config

    where = _read_here(overrides)
    _refuse_local_folders(where if where.resume else load_config(overrides))
    # Slow to import: faults in the settings come first.
    from rlcap.algorithm.ray_jobs import RayJobs

    jobs = RayJobs(where.cluster.job_address, timeout_s=where.cluster.start_timeout_s)
    job = jobs.submit(command_there(overrides, resume=where.resume, supervise=supervise))
    say(f"{job} on {jobs.address}: {jobs.how_to_follow(job)}")
    try:
        return jobs.follow(job, sys.stdout.write)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"{job} goes on without us: {jobs.how_to_follow(job)}") from interrupt


def command_there(overrides: Sequence[str], *, resume: bool, supervise: bool) -> list[str]:
    """Return the command that the cluster is to run."""
    # A run that exists has its cluster's settings in its folder, and takes no other group of them.
    kept = [text for text in overrides if not (resume and _key(text) == "cluster")]
    return ["rlcap", "train", *(["--supervise"] if supervise else []), *kept, *_INSIDE]


def _read_here(overrides: Sequence[str]) -> RunConfig:
    from rlcap.config.load import load_config

    return load_config([text for text in overrides if _key(text) in _WHERE])


def _refuse_local_folders(config: RunConfig) -> None:
    """Refuse folders whose meaning depends on where a process was started: there are several, on several machines."""
    from rlcap.config.paths import paths_of
    from rlcap.config.validation import raise_faults

    given = {"run_dir": "", "cache_dir": ""} | dict(paths_of(config))
    if config.resume:
        given = {"run_dir": config.run_dir}
    raise_faults(
        [
            f"{key} must be an absolute path that every node of the cluster sees, got {path!r}"
            for key, path in given.items()
            if not PurePosixPath(path).is_absolute()
        ]
    )


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
