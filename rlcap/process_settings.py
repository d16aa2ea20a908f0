"""Settings of the C libraries beneath torch: how long threads spin while they wait, and which memory a process keeps.

A process reads them when it starts, from its environment. Those that Ray starts inherit it from whatever started Ray:
from `rlcap` itself, or on a cluster from `cluster/Dockerfile` and `cluster/slurm/rlcap.sbatch`, which set the same.
"""

from __future__ import annotations

import ctypes
import os
import sys

GNU_LIBRARIES = {
    # OpenMP's threads that spin while they wait stand in the way of the other processes of a run: thirty times slower
    # where cores are few. A moment of spinning pays where steps are short; under any policy but `active` they leave out
    # even that as soon as a second thread of the process computes.
    "OMP_WAIT_POLICY": "active",
    "GOMP_SPINCOUNT": "1000",
    # Every update needs the same memory again; to return it to the system and to be given it anew, page by page, took
    # a tenth of the time. 32 MiB is the most that glibc allows for the second.
    "MALLOC_TRIM_THRESHOLD_": str(256 * 1024**2),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2),
}
"""Of torch on Linux."""
OTHER_LIBRARIES = {"OMP_WAIT_POLICY": "passive"}
"""Elsewhere: other kinds of OpenMP know no moment, and would spin for ever."""
_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3}
"""The same settings as glibc's `mallopt` calls them."""


def settle_process() -> None:
    """Make these settings for this process, before torch is imported, and for those that it starts.

    What the environment says already stays.
    """
    settings = GNU_LIBRARIES if sys.platform == "linux" else OTHER_LIBRARIES
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is None:
        return
    for name in added.keys() & _MALLOPT.keys():  # malloc has read the environment before Python could add to it
        mallopt(_MALLOPT[name], int(added[name]))
