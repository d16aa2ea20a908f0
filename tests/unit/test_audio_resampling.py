import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcap.audio.resampling import resample


def sine(frequency_hz: float, rate: int, duration_s: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency_hz * np.arange(int(duration_s * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize("from_hz", [8_000, 22_050, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("to_hz", [16_000, 48_000])
def test_a_sine_stays_the_same_sine(from_hz, to_hz):
    resampled = resample(sine(440, from_hz), from_hz, to_hz)
    assert resampled.dtype == np.float32
    assert len(resampled) == to_hz
    inner = slice(to_hz // 10, -to_hz // 10)
    np.testing.assert_allclose(resampled[inner], sine(440, to_hz)[inner], atol=0.01)


def test_frequencies_above_the_new_limit_are_filtered_out():
    assert np.abs(resample(sine(12_000, 44_100), 44_100, 16_000)[1_000:-1_000]).max() < 0.01


def test_equal_rates_return_the_waveform_itself():
    waveform = sine(440, 16_000)
    assert resample(waveform, 16_000, 16_000) is waveform


def test_read_only_waveforms_are_taken_and_left_alone():
    waveform = sine(440, 44_100)
    waveform.flags.writeable = False
    before = waveform.copy()
    resample(waveform, 44_100, 16_000)
    np.testing.assert_array_equal(waveform, before)


@settings(deadline=None, max_examples=25)
@given(from_hz=st.integers(1_000, 400_000), num_samples=st.integers(1, 4_000))
def test_any_rate_gives_the_right_duration_in_little_memory(from_hz, num_samples):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resampled = resample(np.ones(num_samples, np.float32), from_hz, 16_000)
    assert abs(len(resampled) - num_samples * 16_000 / from_hz) <= 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_rates_without_a_common_divisor_keep_the_pitch():
    rate = 44_101
    spectrum = np.abs(np.fft.rfft(resample(sine(1_000, rate, 2.0), rate, 16_000)[:32_000]))
    assert abs(int(spectrum.argmax()) - 2_000) <= 1


@pytest.mark.parametrize("rates", [(0, 16_000), (16_000, -1)])
def test_rates_must_be_positive(rates):
    with pytest.raises(ValueError, match="must be positive"):
        resample(np.ones(4, np.float32), *rates)
