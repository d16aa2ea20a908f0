"""Results of stages, kept by the hash of what they depend on, the source of rlcap included."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

import rlcap

log = logging.getLogger(__name__)

RECORD = "stage.json"
PACKAGES = ("rlcap", "actors", "learner", "reward_server")
"""What a stage runs of our own."""


@dataclass(frozen=True, slots=True)
class StageResult:
    """Where a stage's files are, and what making them cost."""

    name: str
    key: str
    """Hash of everything the stage depends on: later stages put it among their own dependencies."""
    path: Path
    wall_s: float
    """Seconds of the run that made it."""
    cached: bool


class StageCache:
    """Directories `<name>-<key>` below one root, each complete or absent."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, name: str, depends_on: Mapping[str, object], build: Callable[[Path], None]) -> StageResult:
        """Return the stage's directory, calling `build` with a new one where there is none yet."""
        key = _key(name, depends_on)
        path = self.root / f"{name}-{key}"
        record = path / RECORD
        if record.is_file():
            return StageResult(name, key, path, float(json.loads(record.read_text())["wall_s"]), cached=True)
        wall_s = self._build(path, build)
        log.info("stage %s took %.1f s", name, wall_s)
        return StageResult(name, key, path, wall_s, cached=False)

    def _build(self, path: Path, build: Callable[[Path], None]) -> float:
        unfinished = path.with_name(f"{path.name}.unfinished-{os.getpid()}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        start = time.monotonic()
        try:
            build(unfinished)
            wall_s = time.monotonic() - start
            (unfinished / RECORD).write_text(json.dumps({"wall_s": wall_s, "rlcap_version": rlcap.__version__}))
            shutil.rmtree(path, ignore_errors=True)
            unfinished.rename(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return wall_s


def source_fingerprint(folders: Iterable[Path]) -> str:
    """Hash the paths and bytes of all Python files below these folders; where the folders lie does not matter."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{folder.name}/{file.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@cache
def _own_source() -> str:
    """Once a process: what is edited later does not run in it."""
    specs = (importlib.util.find_spec(package) for package in PACKAGES)
    return source_fingerprint(Path(place) for spec in specs if spec for place in spec.submodule_search_locations or ())


def _key(name: str, depends_on: Mapping[str, object]) -> str:
    facts = {"stage": name, "source": _own_source(), **{k: _plain(v) for k, v in depends_on.items()}}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
