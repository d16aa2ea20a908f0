"""Textures of filtered noise and scattered impulses: rain, wind, fire, applause, thunder."""

from __future__ import annotations

import numpy as np

from rlcap.soundscapes.synthesis.signals import (
    Waveform,
    arch,
    band_pass,
    decay,
    high_pass,
    low_pass,
    num_samples,
    scatter,
    strike,
    unit_rms,
    wander,
    white_noise,
)


def rain(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """Steady hiss with the patter of single drops."""
    length = num_samples(duration_s, sample_rate_hz)
    hiss = unit_rms(high_pass(white_noise(rng, length), rng.uniform(1200, 2500), sample_rate_hz))
    drops = scatter(rng, length, rng.uniform(150, 400) / sample_rate_hz, 0.6)
    patter = unit_rms(band_pass(drops, rng.uniform(2500, 5000), 1500, sample_rate_hz))
    return (hiss + np.float32(rng.uniform(0.3, 0.8)) * patter) * wander(rng, length, int(2 * duration_s), 0.8, 1.0)


def wind(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """Gusts: low noise whose howl and loudness wander."""
    length = num_samples(duration_s, sample_rate_hz)
    noise = white_noise(rng, length)
    gust = wander(rng, length, int(3 * duration_s) + 2, 0.1, 1.0)
    low = unit_rms(low_pass(noise, rng.uniform(120, 250), sample_rate_hz))
    howl = unit_rms(band_pass(noise, rng.uniform(400, 800), 120, sample_rate_hz))
    return gust * low + np.float32(rng.uniform(0.4, 0.8)) * gust**2 * howl


def fire_crackling(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """Sharp irregular crackles over a soft roar."""
    length = num_samples(duration_s, sample_rate_hz)
    roar = unit_rms(low_pass(white_noise(rng, length), 400, sample_rate_hz))
    kernel_length = num_samples(0.008, sample_rate_hz)
    kernel = white_noise(rng, kernel_length) * decay(kernel_length, 0.001, sample_rate_hz)
    crackles = strike(scatter(rng, length, rng.uniform(12, 30) / sample_rate_hz, 1.0), kernel)
    return unit_rms(high_pass(crackles, 800, sample_rate_hz)) + np.float32(rng.uniform(0.1, 0.25)) * roar


def applause(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """Many pairs of hands, each clap a short burst around 1 to 2 kHz."""
    length = num_samples(duration_s, sample_rate_hz)
    kernel_length = num_samples(0.03, sample_rate_hz)
    claps = np.zeros(length, dtype=np.float32)
    for centre_hz in rng.uniform(900, 2200, 3):
        kernel = white_noise(rng, kernel_length) * decay(kernel_length, 0.004, sample_rate_hz)
        impulses = scatter(rng, length, rng.uniform(15, 30) / sample_rate_hz, 0.5)
        claps += strike(impulses, unit_rms(band_pass(kernel, centre_hz, 900, sample_rate_hz)))
    return unit_rms(claps) * wander(rng, length, int(2 * duration_s), 0.7, 1.0)


def thunder(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """A crack that rolls away into low rumbling."""
    length = num_samples(duration_s, sample_rate_hz)
    noise = white_noise(rng, length)
    roll = wander(rng, length, int(8 * duration_s) + 2, 0.3, 1.0) * arch(length, 0.05, 0.7)
    rumble = roll * unit_rms(low_pass(noise, rng.uniform(50, 90), sample_rate_hz))
    crack = unit_rms(low_pass(noise, 700, sample_rate_hz)) * decay(length, rng.uniform(0.05, 0.12), sample_rate_hz)
    return rumble + np.float32(rng.uniform(0.4, 1.0)) * crack
