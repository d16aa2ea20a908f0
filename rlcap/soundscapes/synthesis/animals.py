"""Voices: dog, cat, birds, crickets, a crying baby."""

from __future__ import annotations

import numpy as np

from rlcap.soundscapes.synthesis.signals import (
    Waveform,
    arch,
    curve,
    formants,
    harmonics,
    num_samples,
    phase_of,
    unit_rms,
    wander,
    white_noise,
)


def dog_bark(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """One bark: a rough voice that jumps up and drops, through the formants of an open mouth."""
    length = num_samples(duration_s, sample_rate_hz)
    pitch_hz = rng.uniform(220, 480) * curve([0.8, 1.25, 1.1, 0.75], length)
    rough = 1 + np.float32(0.06) * white_noise(rng, length)
    voice = harmonics(phase_of(pitch_hz * rough, sample_rate_hz), 1 / np.arange(1, 15) ** 0.6)
    source = voice + np.float32(0.8) * white_noise(rng, length)
    scale = rng.uniform(0.85, 1.2)
    mouth = [(650 * scale, 300, 1.0), (1300 * scale, 350, 0.8), (2600 * scale, 600, 0.3)]
    return unit_rms(formants(source, mouth, sample_rate_hz)) * curve([0, 1, 0.9, 0.5, 0.15, 0], length)


def cat_meow(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """One meow: a gliding voice whose mouth opens and closes."""
    length = num_samples(duration_s, sample_rate_hz)
    pitch_hz = rng.uniform(480, 680) * curve([0.85, 1.15, 1.2, 1.05, 0.8], length)
    phase = phase_of(pitch_hz * (1 + 0.01 * white_noise(rng, length)), sample_rate_hz)
    voice = harmonics(phase, 1 / np.arange(1, 11) ** 0.8)
    closed = formants(voice, [(700, 250, 1.0), (2600, 400, 0.5)], sample_rate_hz)
    opened = formants(voice, [(1500, 300, 1.0), (2900, 500, 0.6)], sample_rate_hz)
    opening = curve([0, 0.6, 1, 0.7, 0.1], length)
    return unit_rms(closed * (1 - opening) + opened * opening) * arch(length, 0.2, 0.4)


def bird_song(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """Birds singing: phrases of short whistled sweeps."""
    length = num_samples(duration_s, sample_rate_hz)
    frequency_hz = np.full(length, 3000, dtype=np.float32)
    loudness = np.zeros(length, dtype=np.float32)
    start = int(rng.uniform(0, 0.1) * sample_rate_hz)
    register_hz = rng.uniform(2800, 4200)
    while start < length - 160:
        note = min(length - start, int(rng.uniform(0.05, 0.16) * sample_rate_hz))
        shape = register_hz * rng.uniform(0.75, 1.4, 3)
        frequency_hz[start : start + note] = curve(shape, note)
        loudness[start : start + note] = arch(note, 0.3, 0.4) * np.float32(rng.uniform(0.5, 1.0))
        pause_s = rng.uniform(0.15, 0.35) if rng.random() < 0.2 else rng.uniform(0.01, 0.06)
        start += note + int(pause_s * sample_rate_hz)
    return harmonics(phase_of(frequency_hz, sample_rate_hz), [1.0]) * loudness


def crickets(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """Crickets: a high tone cut into pulses, the pulses grouped into chirps."""
    length = num_samples(duration_s, sample_rate_hz)
    time_s = np.arange(length, dtype=np.float32) / sample_rate_hz
    song = np.zeros(length, dtype=np.float32)
    for loudness in (1.0, 0.4):
        carrier_hz = wander(rng, length, 4, 1.0, 1.01) * np.float32(rng.uniform(4200, 5200))
        pulses = np.maximum(0, np.sin(2 * np.pi * rng.uniform(28, 45) * time_s))
        rhythm = np.sin(2 * np.pi * rng.uniform(2.2, 4.0) * time_s + rng.uniform(0, 6))
        chirps = np.clip(5 * (rhythm - np.float32(rng.uniform(-0.6, 0.0))), 0, 1)
        song += np.float32(loudness) * np.sin(phase_of(carrier_hz, sample_rate_hz)) * pulses * chirps
    return song


def baby_cry(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """A crying baby: long wails with a harsh edge, and a gasp between them."""
    length = num_samples(duration_s, sample_rate_hz)
    pitch_hz, loudness = np.full(length, 400, dtype=np.float32), np.zeros(length, dtype=np.float32)
    base_hz, start = rng.uniform(380, 520), 0
    while start < length - 160:
        wail = min(length - start, int(rng.uniform(0.5, 0.9) * sample_rate_hz))
        pitch_hz[start : start + wail] = base_hz * curve([0.8, 1.1, 1.15, 1.05, 0.75], wail)
        loudness[start : start + wail] = arch(wail, 0.15, 0.35)
        start += wail + int(rng.uniform(0.12, 0.25) * sample_rate_hz)
    tremor = 1 + np.float32(0.02) * np.sin(2 * np.pi * 7 * np.arange(length, dtype=np.float32) / sample_rate_hz)
    phase = phase_of(pitch_hz * tremor * (1 + 0.02 * white_noise(rng, length)), sample_rate_hz)
    voice = harmonics(phase, 1 / np.arange(1, 13) ** 0.4)
    throat = [(1100, 300, 1.0), (2900, 500, 0.9), (4300, 700, 0.4)]
    return unit_rms(formants(voice, throat, sample_rate_hz)) * loudness
