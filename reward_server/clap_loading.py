"""CLAPs by directory: the backend named in `config.json` picks the class."""

from __future__ import annotations

from pathlib import Path

from reward_server.clap import Clap
from reward_server.hf_clap import HfClap
from reward_server.laion_clap_backend import LaionClap
from reward_server.small_clap import CONFIG_FILE, SmallClap
from rlcap.captioners.checkpoint_files import read_json
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
    backend = read_json(path).get("backend")
    if backend is None:
        raise CheckpointError(f"{path} does not name the backend of a CLAP: give a directory that rlcap saved")
    if str(backend) not in BACKENDS:
        raise CheckpointError(f"{directory} holds a CLAP of backend {backend!r}; known here: {', '.join(BACKENDS)}")
    return BACKENDS[str(backend)].load(directory)
