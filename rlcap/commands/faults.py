"""What a command says of a fault that the system reports, or that nobody foresaw."""

from __future__ import annotations

import errno
import os
import tempfile
import traceback

_WAYS_OUT = {
    errno.ENOSPC: "make room, then give the command again",
    errno.EDQUOT: "make room within your quota, then give the command again",
    errno.EROFS: "give a place that can be written to",
    errno.EACCES: "see who may use it, or give another place",
    errno.EPERM: "see who may use it, or give another place",
    errno.ENOENT: "see that the path is right",
    errno.ENOTDIR: "see that the path is right",
    errno.EISDIR: "give a file instead",
    errno.ENAMETOOLONG: "give a shorter one",
    errno.ELOOP: "its links lead round in a circle",
    errno.EMFILE: "let a process open more files: ulimit -n",
    errno.ENFILE: "the machine has too many files open",
    errno.EIO: "the disk or its network does not answer as it should",
    errno.ESTALE: "the network disk has changed under it: mount it again",
    errno.ENOMEM: "the machine has no memory left",
}


def sentence_of(error: OSError) -> str:
    """Say what the system refused, of which file, and what to do."""
    what = error.strerror or str(error).strip().split("\n")[0] or type(error).__name__
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    way_out = _WAYS_OUT.get(error.errno or 0)
    return ": ".join([*(" and ".join(names),) * bool(names), what]) + (f"; {way_out}" if way_out else "")


def sentence_of_unforeseen(error: Exception) -> str:
    """Say that rlcap itself is at fault, and keep the traceback for those who mend it."""
    first = str(error).strip().split("\n")[0]
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    told = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="rlcap-", suffix=".log", delete=False, encoding="utf-8") as file:
            file.write(told)
    except OSError:
        return f"{what}: nobody foresaw this, and its traceback could be written nowhere:\n{told}"
    return f"{what}: nobody foresaw this; please report it with its traceback, {file.name}"
