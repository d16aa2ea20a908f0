"""The parts that sounds are built from: noise, filters, envelopes, harmonics, scattered impulses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32
from numpy.typing import ArrayLike, NDArray
from scipy.signal import lfilter, oaconvolve

Waveform: TypeAlias = Float32[NDArray[np.float32], " sample"]


def num_samples(duration_s: float, sample_rate_hz: int) -> int:
    """Samples in `duration_s`, at least one."""
    return max(1, round(duration_s * sample_rate_hz))


def white_noise(rng: np.random.Generator, length: int) -> Waveform:
    """Gaussian noise of unit variance."""
    return rng.standard_normal(length, dtype=np.float32)


def low_pass(signal: Waveform, cutoff_hz: float, sample_rate_hz: int) -> Waveform:
    """Two cascaded one-pole low-pass filters (12 dB an octave)."""
    decay = np.float32(np.exp(-2 * np.pi * cutoff_hz / sample_rate_hz))
    gain = (1 - decay) ** 2
    numerator = np.array([gain], dtype=np.float32)
    return _filter(numerator, np.array([1, -2 * decay, decay**2], dtype=np.float32), signal)


def high_pass(signal: Waveform, cutoff_hz: float, sample_rate_hz: int) -> Waveform:
    """One-pole high-pass filter (6 dB an octave)."""
    decay = np.float32(np.exp(-2 * np.pi * cutoff_hz / sample_rate_hz))
    gain = (1 + decay) / 2
    return _filter(np.array([gain, -gain], dtype=np.float32), np.array([1, -decay], dtype=np.float32), signal)


def band_pass(signal: Waveform, centre_hz: float, bandwidth_hz: float, sample_rate_hz: int) -> Waveform:
    """Two-pole resonator of unit gain at its centre (Bristow-Johnson's constant-peak band-pass)."""
    omega = 2 * np.pi * min(centre_hz, 0.45 * sample_rate_hz) / sample_rate_hz
    alpha = np.sin(omega) * bandwidth_hz / (2 * centre_hz)
    numerator = np.array([alpha, 0, -alpha]) / (1 + alpha)
    denominator = np.array([1 + alpha, -2 * np.cos(omega), 1 - alpha]) / (1 + alpha)
    return _filter(numerator.astype(np.float32), denominator.astype(np.float32), signal)


def formants(signal: Waveform, resonances: Sequence[tuple[float, float, float]], sample_rate_hz: int) -> Waveform:
    """Sum of resonators in parallel, each given as (centre_hz, bandwidth_hz, gain)."""
    shaped = np.zeros_like(signal)
    for centre_hz, bandwidth_hz, gain in resonances:
        shaped += np.float32(gain) * band_pass(signal, centre_hz, bandwidth_hz, sample_rate_hz)
    return shaped


def curve(points: ArrayLike, length: int) -> Waveform:
    """Straight lines through evenly spaced points."""
    heights = np.asarray(points, dtype=np.float32)
    positions = np.linspace(0, len(heights) - 1, length)
    return np.interp(positions, np.arange(len(heights)), heights).astype(np.float32)


def wander(rng: np.random.Generator, length: int, num_points: int, low: float, high: float) -> Waveform:
    """Random slow curve between `low` and `high`."""
    return curve(rng.uniform(low, high, max(2, num_points)), length)


def arch(length: int, attack_share: float, release_share: float) -> Waveform:
    """Envelope that rises and falls as half cosines around a plateau at one."""
    envelope = np.ones(length, dtype=np.float32)
    attack, release = max(1, int(attack_share * length)), max(1, int(release_share * length))
    envelope[:attack] *= 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, attack, dtype=np.float32))
    envelope[-release:] *= 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, release, dtype=np.float32))
    return envelope


def decay(length: int, half_life_s: float, sample_rate_hz: int) -> Waveform:
    """Exponential decay from one."""
    faded: Waveform = np.exp2(-np.arange(length, dtype=np.float32) / np.float32(half_life_s * sample_rate_hz))
    return faded


def phase_of(frequency_hz: Waveform, sample_rate_hz: int) -> Waveform:
    """Running phase in radians of a changing frequency."""
    cycles = np.cumsum(frequency_hz, dtype=np.float64) / sample_rate_hz
    return (2 * np.pi * (cycles % 1.0)).astype(np.float32)


def harmonics(phase: Waveform, amplitudes: ArrayLike) -> Waveform:
    """Sum of sin(k * phase) for k from 1, by the recurrence of multiple angles."""
    gains = np.asarray(amplitudes, dtype=np.float32)
    doubled_cosine = 2 * np.cos(phase)
    previous, current = np.zeros_like(phase), np.sin(phase)
    total: Waveform = gains[0] * current
    for gain in gains[1:]:
        previous, current = current, doubled_cosine * current - previous
        total += gain * current
    return total


def scatter(rng: np.random.Generator, length: int, rate: float, spread: float) -> Waveform:
    """Impulses at random places; `rate` is impulses a sample, `spread` the log-deviation of their size."""
    impulses = np.zeros(length, dtype=np.float32)
    places = rng.integers(0, length, max(1, rng.poisson(rate * length)))
    impulses[places] += rng.lognormal(0.0, spread, len(places)).astype(np.float32)
    return impulses


def strike(impulses: Waveform, kernel: Waveform) -> Waveform:
    """Play `kernel` at every impulse, cut to the length of `impulses`."""
    struck: Waveform = oaconvolve(impulses, kernel)[: len(impulses)]
    return struck.astype(np.float32, copy=False)


def rms(signal: Waveform) -> float:
    """Root mean square."""
    return float(np.sqrt(np.dot(signal, signal) / max(1, len(signal))))


def unit_rms(signal: Waveform) -> Waveform:
    """Scale to a root mean square of one."""
    return signal / np.float32(rms(signal) + 1e-9)


def _filter(numerator: NDArray[np.float32], denominator: NDArray[np.float32], signal: Waveform) -> Waveform:
    filtered: Waveform = lfilter(numerator, denominator, signal)
    return filtered
