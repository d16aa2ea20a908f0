"""Checkpoints that a kill at any byte cannot spoil: written aside, checksummed, renamed into place."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from rlcap.errors import CheckpointError, in_one_line

CHECKSUMS = "checksums.json"
"""SHA-256 of every file of a checkpoint, by path relative to it."""
SCORE = "score.json"
"""How good a checkpoint is, as one number: the best ones are kept."""

_NAME = re.compile(r"update-(\d{6,})")
_PARTIAL = ".partial-"
_LOGGER = logging.getLogger(__name__)


def write_checkpoint(root: Path, update: int, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder, and show it below `root` as `update-<update>` only once it is whole and on disk.

    Raises:
        CheckpointError: there is no room for it, or it cannot be written; or `write` left nothing, or a link or a file
            named like the checksums. Earlier checkpoints are as they were.
    """
    final = root / f"update-{update:06d}"
    partial = _aside(final)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_partials(root)
        partial.mkdir()
        write(partial)
        _seal(partial)
        if final.exists():  # a damaged one, or the same one: an older checkpoint stands in while they change places
            _remove(final)
        partial.rename(final)
        _sync(root)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap what the system told them
        raise CheckpointError(f"the checkpoint of update {update} cannot be written: {in_one_line(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def latest_good(root: Path) -> Path | None:
    """Return the newest checkpoint whose files match their checksums; log and skip damaged ones."""
    return next(_good_checkpoints(root), None)


def newest_update(root: Path) -> int:
    """Return the update of the newest checkpoint, whole or not; 0 where there is none."""
    return max(map(update_of, _checkpoints(root)), default=0)


def verify_checkpoint(path: Path) -> None:
    """Compare every file with its checksum.

    Raises:
        CheckpointError: the checkpoint is missing, incomplete or damaged; names the file.
    """
    recorded = _read_checksums(path)
    for name, digest in recorded.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"checkpoint {path} is incomplete: {name} is missing")
        if _sha256(file) != digest:
            raise CheckpointError(f"checkpoint {path} is damaged: {name} does not match its checksum")


def update_of(path: Path) -> int:
    """Return the number of updates behind a checkpoint, from its name.

    Raises:
        CheckpointError: the name is not that of a checkpoint.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} is not named like a checkpoint: expected update-<number>, got {path.name}")
    return int(match[1])


def prune(root: Path, keep_last: int, keep_best: int = 0) -> None:
    """Remove what is older than the `keep_last` newest, the `keep_best` with the highest score excepted.

    Damaged ones do not count, and of the newest ones none is removed while there are fewer than `keep_last`.
    """
    good = _good_checkpoints(root)
    kept = [path for _, path in zip(range(keep_last), good, strict=False)]
    if len(kept) < keep_last:
        return
    ranked = sorted(_checkpoints(root), key=_score, reverse=True) if keep_best else []
    best = [path for _, path in zip(range(keep_best), _only_good(ranked), strict=False)]
    for path in _checkpoints(root):
        if update_of(path) < update_of(kept[-1]) and path not in best:
            _remove(path)


def set_aside(root: Path, from_update: int) -> list[Path]:
    """Rename the checkpoints of this update and later ones, newest first, so that no run goes on with them."""
    moved = []
    for path in _checkpoints(root):
        if update_of(path) < from_update:
            continue
        target = path.with_name(f"rejected-{path.name}")
        if target.exists():
            _remove(target)
        moved.append(path.rename(target))
    return moved


def _checkpoints(root: Path) -> list[Path]:
    """Return the checkpoints below `root`, newest first."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=update_of, reverse=True)


def _good_checkpoints(root: Path) -> Iterator[Path]:
    return _only_good(_checkpoints(root))


def _only_good(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            _LOGGER.warning("%s; it is passed over for an older one", error)
        else:
            yield path


def _score(path: Path) -> float:
    """Return what `SCORE` says of a checkpoint; one without, or a damaged one, is the worst."""
    try:
        return finite_score(json.loads((path / SCORE).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return -math.inf


def finite_score(value: object) -> float:
    """Return a score as it was written; what is no finite number is the worst."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return -math.inf
    return float(value)


def _seal(folder: Path) -> None:
    """Write the checksums of a filled folder, and wait until every byte is on disk."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    names = [path.relative_to(folder).as_posix() for path in files]
    if not files or CHECKSUMS in names or any(path.is_symlink() for path in files):
        raise CheckpointError(f"a checkpoint must hold plain files and no {CHECKSUMS} of its own, got {names}")
    checksums = folder / CHECKSUMS
    digests = {name: _sha256(path) for name, path in zip(names, files, strict=True)}
    checksums.write_text(json.dumps(digests, indent=1), encoding="utf-8")
    for path in (*files, checksums, *(path for path in folder.rglob("*") if path.is_dir()), folder):
        _sync(path)


def _read_checksums(path: Path) -> dict[str, str]:
    try:
        recorded = json.loads((path / CHECKSUMS).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no whole checkpoint at {path}: {CHECKSUMS} is missing") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {CHECKSUMS} is no valid JSON") from error
    if not isinstance(recorded, dict) or not recorded or not all(isinstance(one, str) for one in recorded.values()):
        raise CheckpointError(f"checkpoint {path} is damaged: {CHECKSUMS} names no files")
    return recorded


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Take a checkpoint out of sight before its files go, so that a kill leaves no half of it."""
    partial = _aside(path)
    path.rename(partial)
    shutil.rmtree(partial)


def _aside(path: Path) -> Path:
    return path.with_name(f"{_PARTIAL}{path.name}-{secrets.token_hex(8)}")


def _remove_partials(root: Path) -> None:
    """Clear away what a killed process left."""
    for path in root.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path)
