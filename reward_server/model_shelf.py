"""The reward models that a shard holds in memory, by version."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import psutil
import torch

from reward_server.clap import Clap
from reward_server.versioned_model import VersionedModel
from rlcap.errors import RewardError

MAX_HELD = 3
"""The live model, the one before, which rollouts under way are still scored by, and a candidate."""
BYTES_PER_MB = 1_000_000


class ModelShelf:
    """Holds the models used last; others are loaded again when they are asked for. Threads may share it.

    Models over the same towers share them: their memory counts once.
    """

    def __init__(self, device: torch.device, memory_mb: float = 0.0) -> None:
        self._device = device
        self._memory_mb = memory_mb
        self._held: OrderedDict[str, VersionedModel] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions held, the one used last at the end."""
        with self._lock:
            return tuple(self._held)

    def get(self, version: str, load: Callable[[], VersionedModel]) -> VersionedModel:
        """Return the model of this version; `load` is called where it is not held, and holds up nobody else.

        Raises:
            RewardError: what was loaded is of another version.
        """
        held = self._find(version)
        if held is not None:
            return held
        with self._loading:
            held = self._find(version)  # another thread may have loaded it meanwhile
            return held if held is not None else self._keep(version, load().to(self._device))

    def towers(self, fingerprint: str) -> Clap | None:
        """The towers with this fingerprint, where a model that is held stands on them."""
        with self._lock:
            return next(
                (model.towers for model in self._held.values() if model.towers_fingerprint == fingerprint), None
            )

    def make_room(self, num_bytes: int, keep: str) -> None:
        """Let go of all models but `keep` where one of this size would not fit beside them.

        Raises:
            RewardError: it does not fit beside `keep` alone.
        """
        if num_bytes <= self._free_bytes():
            return
        with self._lock:
            self._held = OrderedDict((version, model) for version, model in self._held.items() if version == keep)
        free = self._free_bytes()
        if num_bytes > free:
            raise RewardError(
                f"it needs {num_bytes / BYTES_PER_MB:.1f} MB beside the live model's "
                f"{self._held_bytes() / BYTES_PER_MB:.1f} MB, and {max(0, free) / BYTES_PER_MB:.1f} MB are free"
            )

    def drop(self, version: str) -> None:
        """Let go of a model."""
        with self._lock:
            self._held.pop(version, None)

    def _find(self, version: str) -> VersionedModel | None:
        with self._lock:
            if version not in self._held:
                return None
            self._held.move_to_end(version)
            return self._held[version]

    def _keep(self, version: str, model: VersionedModel) -> VersionedModel:
        if model.version != version:
            raise RewardError(f"reward model {version} was asked for, but {model.version} was loaded")
        with self._lock:
            self._held[version] = model
            while len(self._held) > MAX_HELD:
                self._held.popitem(last=False)
        return model

    def _free_bytes(self) -> int:
        if self._memory_mb:
            return int(self._memory_mb * BYTES_PER_MB) - self._held_bytes()
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0])
        return int(psutil.virtual_memory().available)

    def _held_bytes(self) -> int:
        held = [*self._held.values()]
        towers = {model.towers_fingerprint: model.towers_bytes for model in held}
        return sum(towers.values()) + sum(model.num_bytes - model.towers_bytes for model in held)
