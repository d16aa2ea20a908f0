"""Results of stages, kept by the hash of what they depend on, the source of rlcap included."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

from filelock import SoftFileLease, Timeout
from safetensors import SafetensorError

import rlcap
from rlcap.leases import is_ours, open_lease

log = logging.getLogger(__name__)

RECORD = "stage.json"
PACKAGES = ("rlcap", "actors", "learner", "reward_server")
"""What a stage runs of our own."""
_UNFINISHED = ".unfinished-"
_FORGOTTEN_S = 24 * 3600.0


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
    """Directories `<name>-<key>` below one root, each complete or absent; any number of runs may share them.

    Of several that want a stage at one time, on one machine or many, one makes it, and the others wait for it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, name: str, depends_on: Mapping[str, object], build: Callable[[Path], None]) -> StageResult:
        """Return the stage's directory, calling `build` with a new one where there is none yet."""
        key = _key(name, depends_on)
        path = self.root / f"{name}-{key}"
        while True:
            if (path / RECORD).is_file():
                wall_s = float(json.loads((path / RECORD).read_text())["wall_s"])
                return StageResult(name, key, path, wall_s, cached=True)
            with self._lease_of(path) as lease:
                built = None if (path / RECORD).is_file() else self._build(path, build, lease)
            if built is not None:
                log.info("stage %s took %.1f s", name, built)
                return StageResult(name, key, path, built, cached=False)

    @contextmanager
    def _lease_of(self, path: Path) -> Iterator[SoftFileLease]:
        """Become the one process that makes a stage, once whoever makes it now is done or dead."""
        self.root.mkdir(parents=True, exist_ok=True)
        lease = open_lease(_lease_file(path))
        try:
            lease.acquire(blocking=False)
        except Timeout:
            owner = lease.owner
            whose = f"process {owner.pid} on {owner.hostname}" if owner else "another process"
            log.info("%s makes stage %s: waiting for it", whose, path.name)
            lease.acquire()
        try:
            yield lease
        finally:
            lease.release()

    def _build(self, path: Path, build: Callable[[Path], None], lease: SoftFileLease) -> float | None:
        """Make a stage and show it; None where our lease was lost meanwhile, and so another process makes it."""
        self._remove_leftovers(path)
        unfinished = path.with_name(f"{path.name}{_UNFINISHED}{secrets.token_hex(8)}")
        unfinished.mkdir()
        start = time.monotonic()
        try:
            build(unfinished)
            wall_s = time.monotonic() - start
            (unfinished / RECORD).write_text(json.dumps({"wall_s": wall_s, "rlcap_version": rlcap.__version__}))
            if not is_ours(lease):
                return None
            _publish(unfinished, path)
        except (OSError, RuntimeError, SafetensorError):  # torch and safetensors wrap what the system told them
            if is_ours(lease):
                raise
            return None  # whoever took the lease over has cleared our folder away
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return wall_s

    def _remove_leftovers(self, own: Path) -> None:
        """Clear away what dead processes left unfinished: nobody else can take the lease of one that lives."""
        for unfinished in self.root.glob(f"*{_UNFINISHED}*"):
            path = unfinished.with_name(unfinished.name.partition(_UNFINISHED)[0])
            if path == own:
                shutil.rmtree(unfinished, ignore_errors=True)
                continue
            lease = open_lease(_lease_file(path))
            try:
                if _is_forgotten(lease):
                    lease.force_break()
                with lease.acquire(blocking=False):
                    shutil.rmtree(unfinished, ignore_errors=True)
            except Timeout:
                continue


def _lease_file(path: Path) -> Path:
    return path.absolute().with_name(f".{path.name}.lease")


def _is_forgotten(lease: SoftFileLease) -> bool:
    """Tell whether nobody has touched a lease for so long that no clocks can differ by it."""
    try:
        return time.time() - Path(lease.lock_file).stat().st_mtime > _FORGOTTEN_S
    except FileNotFoundError:
        return False


def _publish(unfinished: Path, path: Path) -> None:
    """Show a stage under its name. A folder of that name without a record is none, and makes way."""
    if path.exists():
        broken = path.with_name(f"{path.name}{_UNFINISHED}{secrets.token_hex(8)}")
        path.rename(broken)
        shutil.rmtree(broken)
    unfinished.rename(path)


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
