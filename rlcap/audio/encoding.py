"""Clips as the bytes of an audio file."""

from __future__ import annotations

import io

import soundfile

from rlcap.types import Clip


def to_flac(clip: Clip) -> bytes:
    """Encode a clip as FLAC, its samples rounded to 16 bits."""
    buffer = io.BytesIO()
    soundfile.write(buffer, clip.waveform, clip.sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
