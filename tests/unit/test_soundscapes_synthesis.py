import numpy as np
import pytest

from rlcap.soundscapes.synthesis.kinds import KINDS
from rlcap.soundscapes.synthesis.signals import curve, harmonics, phase_of, rms

RATE_HZ = 16_000
ALL = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def spectrum(waveform):
    """Mean, spread and flux of the log power in 24 bands."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 512)[::256] * np.hanning(512).astype(np.float32)
    power = np.abs(np.fft.rfft(frames)) ** 2
    bands = np.unique(np.geomspace(2, 256, 25).astype(int))[:-1]
    log_power = np.log(np.add.reduceat(power, bands, axis=1) + 1e-6)
    return np.concatenate([log_power.mean(0), log_power.std(0), np.diff(log_power, axis=0).std(0)])


@ALL
def test_sounds_are_finite_float32_and_not_silent(kind):
    for seed, duration_s in ((0, 0.3), (1, 1.0), (2, 4.0)):
        waveform = kind.perform(np.random.default_rng(seed), duration_s, RATE_HZ, int(kind.countable))
        assert waveform.dtype == np.float32
        assert waveform.shape == (round(duration_s * RATE_HZ),)
        assert np.isfinite(waveform).all()
        assert rms(waveform) > 1e-3


@ALL
def test_a_sound_is_a_function_of_its_generator(kind):
    first, second, other = (kind.perform(np.random.default_rng(seed), 0.6, RATE_HZ, 1) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("label", [label for label, kind in KINDS.items() if kind.countable])
def test_strokes_can_be_counted_in_the_envelope(label):
    kind = KINDS[label]
    for count in (1, 2, 3):
        stroke_s = kind.stroke_s[1]
        waveform = kind.perform(np.random.default_rng(5), stroke_s * (1.2 * count - 0.2), RATE_HZ, count)
        # Each stroke has the same length: what lies inside them must outweigh what lies between.
        envelope = np.abs(waveform)
        length = len(waveform) / (1.2 * count - 0.2)
        gaps = [envelope[int(length * (1 + 1.2 * k) + 80) : int(length * 1.2 * (k + 1) - 80)] for k in range(count - 1)]
        assert all(gap.mean() < 0.1 * envelope.mean() for gap in gaps)


def test_there_are_at_least_twenty_kinds_and_a_nearest_neighbour_tells_them_apart():
    assert len(KINDS) >= 20
    known, asked = (
        np.array(
            [
                [spectrum(kind.perform(np.random.default_rng([seed, n]), 1.5, RATE_HZ, 2)) for n in range(6)]
                for kind in KINDS.values()
            ]
        )
        for seed in (0, 1)
    )
    scale = known.std(axis=(0, 1))
    distances = np.abs((asked[:, :, None, None] - known[None, None]) / scale).sum(-1).min(-1)
    told = distances.argmin(-1) == np.arange(len(KINDS))[:, None]
    assert told.mean() > 0.9


def test_harmonics_equal_the_sum_of_sines():
    phase = phase_of(np.full(4000, 220.0, dtype=np.float32), RATE_HZ)
    amplitudes = [1.0, 0.5, 0.0, 0.25, 0.1]
    expected = sum(a * np.sin((k + 1) * phase.astype(np.float64)) for k, a in enumerate(amplitudes))
    np.testing.assert_allclose(harmonics(phase, amplitudes), expected, atol=1e-4)


def test_a_curve_goes_through_its_points():
    np.testing.assert_allclose(curve([0, 1, 0], 5), [0, 0.5, 1, 0.5, 0])
