"""CLAPs by directory: the backend named in `config.json` picks the class."""

from __future__ import annotations

import json
from pathlib import Path

from reward_server.clap import Clap
from reward_server.hf_clap import HfClap
from reward_server.laion_clap_backend import LaionClap
from reward_server.small_clap import CONFIG_FILE, SmallClap
from rlcap.errors import CheckpointError

BACKENDS: dict[str, type[Clap]] = {
    SmallClap.backend: SmallClap,
    HfClap.backend: HfClap,
    LaionClap.backend: LaionClap,
}


def load_clap(directory: Path) -> Clap:
    """Load a CLAP that `save` wrote, in evaluation mode.

    Raises:
        CheckpointError: the directory is missing, damaged, or of a backend or architecture not known here.
    """
    path = directory / CONFIG_FILE
    try:
        backend = json.loads(path.read_text(encoding="utf-8"))["backend"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} does not name the backend of a CLAP: {error}") from error
    if backend not in BACKENDS:
        raise CheckpointError(f"{directory} holds a CLAP of backend {backend!r}; known here: {', '.join(BACKENDS)}")
    return BACKENDS[backend].load(directory)
