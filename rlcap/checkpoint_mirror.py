"""Copies of checkpoints on another filesystem: object stores, HDFS, anything that pyarrow or fsspec can write to.

Object stores cannot rename. A copy therefore counts from the moment that its checksums are there: they come last, and
go first when it is removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import fsspec
import pyarrow as pa
from pyarrow import fs

from rlcap.checkpoint import CHECKSUMS, SCORE, finite_score, latest_good, update_of, write_checkpoint
from rlcap.errors import CheckpointError, ConfigError, in_one_line

REJECTED = "rejected.json"
"""What the checksums of a copy are called once a guard has called its weights spoilt."""

_NAME = re.compile(r"update-(\d{6,})")
_LOGGER = logging.getLogger(__name__)


class CheckpointMirror:
    """The copies below one URI."""

    def __init__(self, uri: str, filesystem: fs.FileSystem, root: str) -> None:
        self.uri = _without_secrets(uri)
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    @classmethod
    def open(cls, uri: str) -> CheckpointMirror:
        """Open a place such as `s3://bucket/folder`, `gs://...`, `file:///...`; what pyarrow cannot, fsspec may.

        Raises:
            ConfigError: nothing here can write to such a place.
        """
        try:
            return cls(uri, *fs.FileSystem.from_uri(uri))
        except pa.ArrowInvalid as error:  # also of a scheme that pyarrow does not know
            reason = error
        try:
            filesystem, root = fsspec.core.url_to_fs(uri)
        except (ValueError, ImportError) as error:
            raise ConfigError(
                f"training.checkpoint_dir={_without_secrets(uri)} names no place that checkpoints can go to: "
                f"{in_one_line(reason)}; {in_one_line(error)}"
            ) from error
        return cls(uri, fs.PyFileSystem(fs.FSSpecHandler(filesystem)), root)

    def updates(self) -> list[int]:
        """Return the updates of whole copies, the newest first.

        Raises:
            CheckpointError: the place cannot be reached.
        """
        with self._told("cannot be listed"):
            return sorted((update for update in self._folders() if self._has(update, CHECKSUMS)), reverse=True)

    def try_writing(self) -> None:
        """Write a small file and remove it.

        Raises:
            CheckpointError: the place takes none.
        """
        trial = f"{self._root}/.trial-{uuid.uuid4().hex}"
        with self._told("cannot be written to"):
            self._filesystem.create_dir(self._root, recursive=True)
            with self._filesystem.open_output_stream(trial) as sink:
                sink.write(b"\0")
            self._filesystem.delete_file(trial)

    def upload(self, checkpoint: Path) -> None:
        """Copy a checkpoint there; it counts once all of it has arrived.

        Raises:
            CheckpointError: it could not be written; earlier copies are as they were.
        """
        update = update_of(checkpoint)
        with self._told(f"cannot take the checkpoint of update {update}"):
            self._remove_torn()
            self._remove(update)
            files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
            for file in sorted(files, key=lambda file: file.name == CHECKSUMS):
                target = f"{self._folder(update)}/{file.relative_to(checkpoint).as_posix()}"
                self._filesystem.create_dir(target.rpartition("/")[0], recursive=True)
                with file.open("rb") as source, self._filesystem.open_output_stream(target) as sink:
                    shutil.copyfileobj(source, sink, 2**23)

    def download(self, update: int, root: Path) -> Path:
        """Fetch a checkpoint into a folder of checkpoints, and compare every file with its checksum.

        Raises:
            CheckpointError: it is damaged or cannot be reached.
        """
        with self._told(f"cannot give the checkpoint of update {update}"):
            recorded = json.loads(self._read(update, CHECKSUMS))
            return write_checkpoint(root, update, lambda folder: self._fetch(update, recorded, folder))

    def prune(self, keep_last: int, keep_best: int = 0) -> None:
        """Remove all but the `keep_last` newest copies and the `keep_best` with the highest score.

        Raises:
            CheckpointError: the place cannot be reached.
        """
        updates = self.updates()
        with self._told("cannot be tidied"):
            best = sorted(updates, key=self._score, reverse=True)[:keep_best] if keep_best else []
            for update in updates[keep_last:]:
                if update not in best:
                    self._remove(update)

    def set_aside(self, from_update: int) -> None:
        """Let no run go on with the copies of this update and later ones; their files stay.

        Raises:
            CheckpointError: the place cannot be reached.
        """
        rejected = [update for update in self.updates() if update >= from_update]
        with self._told("cannot be changed"):
            for update in rejected:
                checksums = f"{self._folder(update)}/{CHECKSUMS}"
                self._filesystem.copy_file(checksums, f"{self._folder(update)}/{REJECTED}")
                self._filesystem.delete_file(checksums)

    def _fetch(self, update: int, recorded: dict[str, str], folder: Path) -> None:
        for name, digest in recorded.items():
            where = f"the checkpoint of update {update} at {self.uri}"
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise CheckpointError(f"{where} names a file outside of it: {name}")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._stream(update, name) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 2**23)
            with target.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise CheckpointError(f"{where} is damaged: {name} does not match its checksum")

    def _folders(self) -> list[int]:
        found = self._filesystem.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        names = [_NAME.fullmatch(info.base_name) for info in found if info.type == fs.FileType.Directory]
        return [int(name[1]) for name in names if name]

    def _remove_torn(self) -> None:
        """Clear away copies that were never finished; those that were set aside stay."""
        for update in self._folders():
            if not self._has(update, CHECKSUMS) and not self._has(update, REJECTED):
                self._filesystem.delete_dir(self._folder(update))

    def _remove(self, update: int) -> None:
        if update not in self._folders():
            return
        if self._has(update, CHECKSUMS):
            self._filesystem.delete_file(f"{self._folder(update)}/{CHECKSUMS}")
        self._filesystem.delete_dir(self._folder(update))

    def _score(self, update: int) -> float:
        return finite_score(json.loads(self._read(update, SCORE))) if self._has(update, SCORE) else -math.inf

    def _folder(self, update: int) -> str:
        return f"{self._root}/update-{update:06d}"

    def _has(self, update: int, name: str) -> bool:
        return bool(self._filesystem.get_file_info(f"{self._folder(update)}/{name}").type == fs.FileType.File)

    def _stream(self, update: int, name: str) -> pa.NativeFile:
        return self._filesystem.open_input_stream(f"{self._folder(update)}/{name}")

    def _read(self, update: int, name: str) -> bytes:
        with self._stream(update, name) as file:
            content: bytes = file.read()
            return content

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Say in a sentence what the place could not do: both libraries raise OSError, and ValueError for bad JSON."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise CheckpointError(f"training.checkpoint_dir={self.uri} {what}: {error}") from error


def _without_secrets(uri: str) -> str:
    """Return a URI without the keys that may stand in front of its host: it goes into messages."""
    return re.sub(r"://[^/@]*@", "://", uri)


def newest_good(root: Path, mirror: CheckpointMirror | None) -> Path | None:
    """Return the newest whole checkpoint below `root`; where the mirror has a newer one, that is fetched first.

    Raises:
        CheckpointError: the mirror cannot be reached.
    """
    here = latest_good(root)
    if mirror is None:
        return here
    for update in mirror.updates():
        if here is not None and update <= update_of(here):
            break
        try:
            return mirror.download(update, root)
        except CheckpointError as error:
            _LOGGER.warning("%s; it is passed over for an older one", error)
    return here
