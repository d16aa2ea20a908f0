"""Where the clips of a tar file lie, and what its JSON and text members say of them."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from rlcap.audio.files import AUDIO_SUFFIXES, spelt_out
from rlcap.errors import DataError, RowError
from rlcap.tables.json_values import parse_json
from rlcap.tables.rows import described

MAX_TEXT_BYTES = 2**20
"""Largest JSON or text member that is read."""
TEXT = ".txt"
"""The field that holds the `txt` member; no JSON member can set it."""
HIDDEN_MEMBERS, LINKED_MEMBERS = "hidden members of shards", "links and devices in shards"


@dataclass(slots=True)
class TarClip:
    """The members that share one key."""

    key: str
    audio: str = ""
    """Name of the audio member; empty where there is none."""
    offset: int = 0
    num_bytes: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    """The JSON fields asked for, as they stand there, and the `txt` member."""
    json: str = ""
    """Name of the JSON member that was read; empty where there is none."""
    broken: str = ""
    """Why a member cannot be used; empty where all can."""


@dataclass(frozen=True, slots=True)
class TarIndex:
    """What a tar file holds."""

    clips: list[TarClip]
    seen: set[str]
    """All fields of its JSON members."""
    passed_over: Counter[str]
    """Members that are left alone, by what they are."""
    damage: str
    """Where the file breaks off, and which clips before that are used; empty where it is whole."""


def index_tar(path: Path, wanted: Set[str]) -> TarIndex:
    """Read the headers, the JSON fields `wanted` and the texts of an uncompressed tar file.

    Of a file that is damaged or cut short the clips before the damage are used, but for the last: some of its members
    may be lost. JSON is not read where nothing is wanted of it.

    Raises:
        DataError: the file is damaged before its second clip, or is no uncompressed tar file.
    """
    reader = _Reader(wanted)
    damage = ""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in _members(tar, file):
                reader.add(tar, member)
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        damage = str(error) or type(error).__name__
        lost = next(reversed(reader.clips), None)
        if lost is None or len(reader.clips) == 1:
            raise DataError(f"{path} cannot be read as an uncompressed tar file: {damage}") from error
        del reader.clips[lost]
        damage = (
            f"{damage}; the {len(reader.clips)} clips before {lost!r} are used, that one may have lost members: "
            "copy or build it again"
        )
    return TarIndex(list(reader.clips.values()), reader.seen, reader.passed_over, damage)


def _members(tar: tarfile.TarFile, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Read header by header; none is kept. Raises TarError where the file is damaged."""
    offset = -1
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined] # a plain list, of which typeshed knows nothing
        if tar.offset <= offset or member.size < 0:
            raise tarfile.ReadError(f"it is damaged at byte {member.offset}")
        offset = tar.offset
        yield member
    # tarfile takes a broken header for the end of the archive.
    file.seek(tar.offset)
    if any(file.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"it is damaged at byte {tar.offset}")


class _Reader:
    """Files members under their keys: the path up to the first dot of the name."""

    def __init__(self, wanted: Set[str]) -> None:
        self.clips: dict[str, TarClip] = {}
        self.seen: set[str] = set()
        self.passed_over: Counter[str] = Counter()
        self._wanted = wanted

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Take one member."""
        name = PurePosixPath(member.name)
        if member.isdir():
            return
        if any(part.startswith(".") and part != ".." for part in name.parts) or not name.name:
            self.passed_over[HIDDEN_MEMBERS] += 1
        elif not member.isreg() or member.issparse():
            self.passed_over[LINKED_MEMBERS] += 1
        else:
            key = spelt_out(str(name.with_name(name.name.partition(".")[0])))
            clip = self.clips.setdefault(key, TarClip(key))
            try:
                self._file(clip, tar, member, name)
            except RowError as error:
                clip.broken = clip.broken or f"bad member: {error}"

    def _file(self, clip: TarClip, tar: tarfile.TarFile, member: tarfile.TarInfo, name: PurePosixPath) -> None:
        suffix = name.suffix.lower()
        if suffix in AUDIO_SUFFIXES:
            audio = spelt_out(str(name))
            if clip.audio:
                raise _two(clip.key, "audio", clip.audio, audio)
            clip.audio, clip.offset, clip.num_bytes = audio, member.offset_data, member.size
        elif suffix == TEXT:
            if TEXT in clip.fields:
                raise _two(clip.key, "text", "one", member.name)
            clip.fields[TEXT] = _text(tar, member).strip()
        elif suffix == ".json" and self._wanted:
            if clip.json:
                raise _two(clip.key, "JSON", clip.json, member.name)
            clip.json = member.name
            fields = _json_fields(tar, member)
            self.seen.update(fields)
            clip.fields |= {key: value for key, value in fields.items() if key in self._wanted and key != TEXT}


def _two(key: str, kind: str, one: str, other: str) -> RowError:
    return RowError(
        f"key {key!r} has two {kind} members, {one} and {spelt_out(other)}: a key ends at the first dot of the name, "
        "so rename members whose names hold more dots"
    )


def _json_fields(tar: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    name = spelt_out(member.name)
    try:
        fields = parse_json(_text(tar, member))
    except ValueError as error:
        raise RowError(f"{name} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise RowError(f"{name} must be a JSON object, found {described(fields)}")
    return fields


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    name = spelt_out(member.name)
    if member.size > MAX_TEXT_BYTES:
        raise RowError(f"{name} holds {member.size} bytes of text, the limit is {MAX_TEXT_BYTES}")
    content = tar.extractfile(member)
    assert content is not None, "regular members have content"
    try:
        return content.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RowError(f"{name} is not UTF-8: {error}") from error
