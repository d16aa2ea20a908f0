"""From an audio file to a clip, or to a reason why not.

Nothing a file says about itself is believed: memory grows with the samples that come out of it, up to the longest
duration allowed, and never with the number of frames in its header.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import soundfile
from jaxtyping import Float32

from rlcap.audio.native_stderr import muted_native_stderr
from rlcap.config.data import DataConfig
from rlcap.errors import ClipError
from rlcap.types import Clip

BLOCK_SAMPLES = 2**20
"""Samples decoded at a time, over all channels: 4 MiB."""
SAMPLE_RATES_HZ = (1_000, 768_000)
"""Lowest and highest sample rate that sound is recorded at; anything else is a broken header."""
MAX_CHANNELS = 64
"""Ambisonics of the seventh order; anything above is a broken header."""
QUIET_CONTAINERS = (b"RIFF", b"RF64", b"FORM", b"fLaC", b"OggS")
"""First bytes of files that never reach the MP3 decoder, which prints its doubts to standard error."""
MAX_PEAK = 4.0
"""Loudest sample that may be clipped to full scale (+12 dB); integers stored as floats lie far above it."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a clip must be like to be used."""

    min_duration_s: float = 0.1
    max_duration_s: float = 30.0
    silence_dbfs: float = -80.0

    @classmethod
    def of(cls, config: DataConfig) -> DecodeLimits:
        """Take the limits from the settings of a source."""
        return cls(config.min_duration_s, config.max_duration_s, config.silence_dbfs)


def decode(audio: Path | bytes, clip_id: str, limits: DecodeLimits) -> Clip:
    """Decode an audio file, or the bytes of one, and mix it down to mono.

    A file whose header promises more than it holds gives what it holds.

    Raises:
        ClipError: the clip cannot be used. The reason is a kind, and details behind a colon.
    """
    with _opened(audio) as file:
        sample_rate_hz = file.samplerate
        _check_header(file)
        waveform = _read_mono(file, limits.max_duration_s)
    _check_waveform(waveform, sample_rate_hz, limits)
    return Clip(clip_id, np.clip(waveform, -1.0, 1.0, out=waveform), sample_rate_hz)


@contextmanager
def _opened(audio: Path | bytes) -> Iterator[soundfile.SoundFile]:
    """Open by content alone: libsndfile sees no name whose ending could make it take text for raw samples."""
    with _unbuffered(audio) as file:
        start = file.read(4)
        file.seek(0)
        if not start:
            raise ClipError("empty file")
        with nullcontext() if start in QUIET_CONTAINERS else muted_native_stderr():
            try:
                sound = soundfile.SoundFile(file.fileno(), closefd=False)
            except soundfile.LibsndfileError as error:
                raise ClipError(f"not audio that can be read: {_why(error)}") from error
            with sound:
                yield sound


def _unbuffered(audio: Path | bytes) -> IO[bytes]:
    if isinstance(audio, bytes):
        # libsndfile calls back into Python for anything but a descriptor, and errors there cannot be caught.
        file = TemporaryFile(buffering=0)  # noqa: SIM115 - the caller closes it
        file.write(audio)
        file.seek(0)
        return file
    try:
        # A pipe would block at open, and a device never ends.
        if not stat.S_ISREG(audio.stat().st_mode):
            raise ClipError("not a regular file")
        return audio.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise ClipError("missing file") from error
    except OSError as error:
        raise ClipError(f"file cannot be opened: {error.strerror}") from error


def _check_header(file: soundfile.SoundFile) -> None:
    lowest_hz, highest_hz = SAMPLE_RATES_HZ
    if not lowest_hz <= file.samplerate <= highest_hz:
        raise ClipError(f"impossible sample rate: {file.samplerate} Hz")
    if not 1 <= file.channels <= MAX_CHANNELS:
        raise ClipError(f"impossible number of channels: {file.channels}")


def _read_mono(file: soundfile.SoundFile, max_duration_s: float) -> Float32[np.ndarray, " sample"]:
    """Read to the real end in blocks, averaging the channels; stop as soon as it is too long."""
    max_frames = int(max_duration_s * file.samplerate)
    block = np.empty((BLOCK_SAMPLES // file.channels, file.channels), dtype=np.float32)
    parts = [np.empty(0, dtype=np.float32)]
    num_frames = 0
    while len(frames := _read_block(file, block)):
        num_frames += len(frames)
        if num_frames > max_frames:
            raise ClipError(f"longer than {max_duration_s:g} s")
        # Infinities of opposite sign make a warning here, and an error in the check of the waveform.
        with np.errstate(invalid="ignore", over="ignore"):
            parts.append(frames.mean(axis=1))
    return np.concatenate(parts)


def _read_block(
    file: soundfile.SoundFile, block: Float32[np.ndarray, "frame channel"]
) -> Float32[np.ndarray, "read channel"]:
    try:
        frames: Float32[np.ndarray, "read channel"] = file.read(out=block)
    except soundfile.LibsndfileError as error:
        raise ClipError(f"damaged or cut short: {_why(error)}") from error
    return frames


def _check_waveform(waveform: Float32[np.ndarray, " sample"], sample_rate_hz: int, limits: DecodeLimits) -> None:
    if not len(waveform):
        raise ClipError("no samples")
    num_bad = len(waveform) - int(np.isfinite(waveform).sum())
    if num_bad:
        raise ClipError(f"samples that are NaN or infinite: {num_bad} of {len(waveform)}")
    duration_s = len(waveform) / sample_rate_hz
    if duration_s < limits.min_duration_s:
        raise ClipError(f"shorter than {limits.min_duration_s:g} s: {duration_s:.3g} s")
    peak = float(np.abs(waveform).max())
    if peak > MAX_PEAK:
        raise ClipError(f"samples far above full scale: peak {peak:.4g} where 1 is full scale")
    if peak < 10 ** (limits.silence_dbfs / 20):
        level = f"peak {20 * np.log10(peak):.0f} dBFS" if peak else "all samples are zero"
        raise ClipError(f"silent: {level}, the limit is {limits.silence_dbfs:g} dBFS")


def _why(error: soundfile.LibsndfileError) -> str:
    """Return libsndfile's words for an error, without what is always there."""
    words = error.error_string.strip().rstrip(".").removeprefix("Error : ").removeprefix("Error in ")
    # What libsndfile says whenever its MP3 decoder finds no frame.
    return "no MP3 frames" if words.startswith("File does not exist") else words
