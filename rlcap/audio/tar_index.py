"""Where the clips of a tar file lie, and what its JSON and text members say of them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rlcap.audio.files import AUDIO_SUFFIXES
from rlcap.errors import DataError

MAX_TEXT_BYTES = 2**20
"""Largest JSON or text member that is read."""


@dataclass(slots=True)
class TarClip:
    """The members that share one key."""

    key: str
    audio: str = ""
    """Name of the audio member; empty where there is none."""
    offset: int = 0
    num_bytes: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    """The JSON fields asked for."""
    text: str = ""
    """The `txt` member."""


def index_tar(path: Path, wanted: Set[str], seen: set[str]) -> list[TarClip]:
    """Read the headers, the JSON fields `wanted` and the texts of an uncompressed tar file; add fields to `seen`.

    Raises:
        DataError: the file is damaged, cut short or compressed, a JSON member cannot be read, or a key has two audio
            members.
    """
    clips: dict[str, TarClip] = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    _add(clips, tar, member, wanted, seen)
            # tarfile takes a broken header for the end of the archive.
            file.seek(tar.offset)
            if any(file.read(tarfile.BLOCKSIZE)):
                raise DataError(f"{path} is damaged at byte {tar.offset}: copy or build it again")
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path} cannot be read as an uncompressed tar file: {error}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    return list(clips.values())


def _add(
    clips: dict[str, TarClip], tar: tarfile.TarFile, member: tarfile.TarInfo, wanted: Set[str], seen: set[str]
) -> None:
    """File a member under its key, its path up to the first dot of its name; ValueError where that cannot be."""
    name = PurePosixPath(member.name)
    key = str(name.with_name(name.name.partition(".")[0] or name.name))
    clip = clips.setdefault(key, TarClip(key))
    suffix = name.suffix.lower()
    if suffix in AUDIO_SUFFIXES:
        if clip.audio:
            raise ValueError(f"key {key!r} has two audio members, {clip.audio} and {name}")
        clip.audio, clip.offset, clip.num_bytes = str(name), member.offset_data, member.size
    elif suffix == ".txt":
        clip.text = _text(tar, member).strip()
    elif suffix == ".json":
        fields = _json_fields(tar, member)
        seen.update(fields)
        clip.fields = {key: value for key, value in fields.items() if key in wanted}


def _json_fields(tar: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    try:
        fields = json.loads(_text(tar, member))
    except ValueError as error:
        raise ValueError(f"member {member.name} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"member {member.name} must be a JSON object")  # noqa: TRY004 - of the data, not of a caller
    return fields


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    if member.size > MAX_TEXT_BYTES:
        raise ValueError(f"member {member.name} holds {member.size} bytes of text, the limit is {MAX_TEXT_BYTES}")
    content = tar.extractfile(member)
    assert content is not None, "regular members have content"
    try:
        return content.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"member {member.name} is not UTF-8: {error}") from error
