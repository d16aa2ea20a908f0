"""Things that are struck, blown or pressed: bell, door, horn, telephone, whistle."""

from __future__ import annotations

import numpy as np

from rlcap.soundscapes.synthesis.signals import (
    Waveform,
    arch,
    band_pass,
    curve,
    decay,
    harmonics,
    low_pass,
    num_samples,
    phase_of,
    unit_rms,
    white_noise,
)

# Partials of a church bell (hum, prime, tierce, quint, nominal ...) relative to its strike note.
BELL_PARTIALS = (0.5, 1.0, 1.2, 1.5, 2.0, 2.67, 3.0, 4.1)


def bell(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """One stroke of a bell: inharmonic partials, the higher the shorter."""
    length = num_samples(duration_s, sample_rate_hz)
    time_s = np.arange(length, dtype=np.float32) / sample_rate_hz
    strike_hz, half_life_s = rng.uniform(420, 900), rng.uniform(0.15, 0.3)
    ring = np.zeros(length, dtype=np.float32)
    for partial in BELL_PARTIALS:
        frequency_hz = strike_hz * partial * rng.uniform(0.995, 1.005)
        fading = decay(length, half_life_s / partial**0.6, sample_rate_hz)
        ring += np.float32(rng.uniform(0.4, 1.0)) * np.sin(np.float32(2 * np.pi * frequency_hz) * time_s) * fading
    return ring * arch(length, 0.002, 0.2)


def knock(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """One knock on a wooden door: a few quickly damped resonances and a click."""
    length = num_samples(duration_s, sample_rate_hz)
    time_s = np.arange(length, dtype=np.float32) / sample_rate_hz
    wood = np.zeros(length, dtype=np.float32)
    for frequency_hz in rng.uniform(0.85, 1.2) * np.array([180, 310, 520, 840]):
        fading = decay(length, rng.uniform(0.012, 0.02), sample_rate_hz)
        wood += np.float32(rng.uniform(0.5, 1.0)) * np.sin(np.float32(2 * np.pi * frequency_hz) * time_s) * fading
    click = low_pass(white_noise(rng, length), 1500, sample_rate_hz) * decay(length, 0.003, sample_rate_hz)
    return wood + np.float32(4.0) * click


def car_horn(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """One honk: two reedy notes a third apart."""
    length = num_samples(duration_s, sample_rate_hz)
    low_hz = rng.uniform(330, 450)
    onset = curve([0.97] + [1.0] * 12, length)
    honk = np.zeros(length, dtype=np.float32)
    for frequency_hz in (low_hz, low_hz * rng.uniform(1.19, 1.27)):
        phase = phase_of(np.float32(frequency_hz) * onset, sample_rate_hz)
        honk += harmonics(phase, 1 / np.arange(1, 11) ** rng.uniform(0.3, 0.6))
    return honk * arch(length, 0.04, 0.08)


def telephone_ring(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """One ring of an old telephone: two small gongs under a fast clapper."""
    length = num_samples(duration_s, sample_rate_hz)
    time_s = np.arange(length, dtype=np.float32) / np.float32(sample_rate_hz)
    clapper = 2 * np.pi * rng.uniform(18, 26) * time_s
    gong_hz = rng.uniform(1150, 1600)
    ring = np.zeros(length, dtype=np.float32)
    for ratio, lag in ((1.0, 0.0), (1.25, np.pi)):
        strength = (0.5 + 0.5 * np.cos(clapper + np.float32(lag))) ** 2
        for partial, gain in ((1.0, 1.0), (2.32, 0.5)):
            ring += np.float32(gain) * strength * np.sin(np.float32(2 * np.pi * gong_hz * ratio * partial) * time_s)
    return ring * arch(length, 0.02, 0.25)


def whistle(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """One whistle by mouth: a gliding pure tone with a breath around it."""
    length = num_samples(duration_s, sample_rate_hz)
    glide = curve(rng.uniform(0.85, 1.35, 3), length) * np.float32(rng.uniform(1100, 1700))
    vibrato = 1 + np.float32(0.008) * np.sin(2 * np.pi * 6 * np.arange(length, dtype=np.float32) / sample_rate_hz)
    tone = harmonics(phase_of(glide * vibrato, sample_rate_hz), [1.0])
    breath = unit_rms(band_pass(white_noise(rng, length), float(glide.mean()), 600, sample_rate_hz))
    return (tone + np.float32(0.08) * breath) * arch(length, 0.12, 0.2)
