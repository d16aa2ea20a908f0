"""Machines that run: engine, helicopter, siren, clock."""

from __future__ import annotations

import numpy as np

from rlcap.soundscapes.synthesis.signals import (
    Waveform,
    band_pass,
    curve,
    decay,
    harmonics,
    low_pass,
    num_samples,
    phase_of,
    strike,
    unit_rms,
    wander,
    white_noise,
)


def engine(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """A motor idling or revving: uneven firing harmonics and exhaust noise that pulses with them."""
    length = num_samples(duration_s, sample_rate_hz)
    idle_hz = rng.uniform(35, 70)
    speed_hz = idle_hz * wander(rng, length, int(2 * duration_s) + 2, 1.0, rng.uniform(1.05, 1.8))
    phase = phase_of(speed_hz, sample_rate_hz)
    firing = harmonics(phase, rng.uniform(0.4, 1.0, 16) / np.arange(1, 17) ** 0.7)
    exhaust = unit_rms(low_pass(white_noise(rng, length), 600, sample_rate_hz)) * (1.2 + np.cos(phase))
    return unit_rms(firing) + np.float32(rng.uniform(0.2, 0.5)) * exhaust


def helicopter(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """Rotor blades chopping the air, with a faint turbine."""
    length = num_samples(duration_s, sample_rate_hz)
    blade_hz = np.full(length, rng.uniform(11, 18), dtype=np.float32)
    blade_phase = phase_of(blade_hz, sample_rate_hz)
    chop: Waveform = (0.5 + 0.5 * np.cos(blade_phase)) ** 5
    air = unit_rms(low_pass(white_noise(rng, length), rng.uniform(350, 700), sample_rate_hz))
    thump = harmonics(blade_phase, np.r_[0, 0, 0, rng.uniform(0.5, 1.0, 6)]) * chop
    turbine = harmonics(phase_of(wander(rng, length, 3, 1500, 1560), sample_rate_hz), [1.0])
    swell = wander(rng, length, 4, 0.6, 1.0)
    blend: Waveform = 2 * chop * air + np.float32(0.5) * thump + np.float32(0.03) * turbine
    return swell * blend


def siren(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """An emergency siren that wails up and down, or steps between two tones."""
    length = num_samples(duration_s, sample_rate_hz)
    low_hz, ratio, cycles_hz = rng.uniform(450, 750), rng.uniform(1.35, 1.9), rng.uniform(0.8, 1.8)
    sweep = np.sin(2 * np.pi * cycles_hz * np.arange(length, dtype=np.float32) / sample_rate_hz)
    if rng.random() < 0.4:
        sweep = np.tanh(20 * sweep)
    frequency_hz = np.float32(low_hz) * (1 + np.float32(ratio - 1) * (0.5 + 0.5 * sweep))
    return harmonics(phase_of(frequency_hz, sample_rate_hz), [1.0, 0.3, 0.35, 0.12, 0.1])


def clock_tick(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """A clock: tick and tock at an even pace, each a short ring of small metal parts."""
    length = num_samples(duration_s, sample_rate_hz)
    period = sample_rate_hz / rng.uniform(2.0, 4.5)
    places = np.arange(rng.uniform(0, 0.3) * period, length, period).astype(int)
    kernel_length = num_samples(0.04, sample_rate_hz)
    click = white_noise(rng, kernel_length) * decay(kernel_length, 0.003, sample_rate_hz)
    ticking = np.zeros(length, dtype=np.float32)
    for parity, centre_hz in enumerate(rng.uniform(2200, 4200, 2)):
        impulses = np.zeros(length, dtype=np.float32)
        impulses[places[parity::2]] = 1.0
        ticking += strike(impulses, band_pass(click, centre_hz, 700, sample_rate_hz))
    return unit_rms(ticking)


def footsteps(rng: np.random.Generator, duration_s: float, sample_rate_hz: int) -> Waveform:
    """Someone walking: a heel's thud, then the scrape of the sole."""
    length = num_samples(duration_s, sample_rate_hz)
    period = sample_rate_hz / rng.uniform(1.7, 2.6)
    places = np.arange(rng.uniform(0, 0.2) * period, length, period)
    places = (places + rng.normal(0, 0.03 * period, len(places))).clip(0, length - 1).astype(int)
    impulses = np.zeros(length, dtype=np.float32)
    impulses[places] = rng.uniform(0.7, 1.0, len(places))
    kernel_length = num_samples(0.16, sample_rate_hz)
    pitch_hz = curve([rng.uniform(130, 200), rng.uniform(70, 100)], kernel_length)
    thud = np.sin(phase_of(pitch_hz, sample_rate_hz)) * decay(kernel_length, 0.012, sample_rate_hz)
    scrape = band_pass(white_noise(rng, kernel_length), rng.uniform(900, 1800), 1200, sample_rate_hz)
    scrape *= curve([0, 1, 0.6, 0.2, 0], kernel_length)
    return strike(impulses, thud + np.float32(rng.uniform(0.1, 0.25)) * scrape)
