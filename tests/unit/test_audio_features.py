import copy
import pickle

import numpy as np
import pytest
import torch

from rlcap.audio.features import LogMel, LogMelConfig
from rlcap.types import Clip

CONFIG = LogMelConfig()


def noise(num_samples: int, rate: int = 16_000, seed: int = 0) -> Clip:
    waveform = np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples).astype(np.float32)
    return Clip(f"noise-{seed}", waveform, rate)


def test_frames_agree_with_a_slow_double_precision_oracle():
    clip = noise(4_000)
    padded = np.pad(clip.waveform.astype(np.float64), CONFIG.n_fft // 2)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(CONFIG.n_fft) / CONFIG.n_fft)
    starts = range(0, len(padded) - CONFIG.n_fft + 1, CONFIG.hop)
    power = np.array([np.abs(np.fft.rfft(window * padded[start : start + CONFIG.n_fft])) ** 2 for start in starts])

    def mel(hz: float) -> float:
        return 2595 * np.log10(1 + hz / 700)

    edges = 700 * (10 ** (np.linspace(mel(CONFIG.f_min), mel(CONFIG.f_max), CONFIG.num_mels + 2) / 2595) - 1)
    bins = np.linspace(0, CONFIG.sample_rate_hz / 2, CONFIG.n_fft // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    energies = power @ np.maximum(0, np.minimum(rising, falling))
    expected = (np.log(energies + CONFIG.floor) - CONFIG.mean) / CONFIG.std
    np.testing.assert_allclose(LogMel(CONFIG)([clip]).frames[0], expected, atol=1e-4)


def test_a_clip_is_the_same_alone_and_among_longer_louder_clips_of_other_rates():
    log_mel = LogMel(CONFIG)
    loud = Clip("loud", np.ones(90_000, np.float32), 48_000)
    others = [noise(64_000, seed=1), loud, noise(30_000, rate=22_050, seed=2), noise(100, seed=3)]
    for clip in (noise(16_000), noise(50_000, rate=44_100), noise(300)):
        alone = log_mel([clip])
        together = log_mel([others[0], clip, *others[1:]])
        num_frames = int(together.frame_mask[1].sum())
        assert num_frames == alone.frames.shape[1]
        np.testing.assert_array_equal(together.frames[1, :num_frames], alone.frames[0])


def test_the_mask_marks_one_frame_each_hop_and_padding_holds_zeros():
    features = LogMel(CONFIG)([noise(16_000), noise(1), noise(44_100, rate=44_100)])
    assert features.frames.shape == (3, 51, 64)
    assert features.frames.dtype == np.float32
    assert features.frame_mask.dtype == np.bool_
    assert features.frame_mask.sum(axis=1).tolist() == [51, 1, 51]
    assert features.frame_mask[1].tolist() == [True] + [False] * 50
    assert not features.frames[1, 1:].any()


def test_of_a_long_clip_the_beginning_is_heard():
    clip = noise(16_000)
    short = LogMel(LogMelConfig(max_duration_s=0.5))([clip])
    beginning = LogMel(CONFIG)([Clip("half", clip.waveform[:8_000], 16_000)])
    np.testing.assert_array_equal(short.frames, beginning.frames)


def test_silence_and_full_scale_stay_within_bounds():
    features = LogMel(CONFIG)(
        [Clip("s", np.zeros(8_000, np.float32), 16_000), Clip("f", np.ones(8_000, np.float32), 16_000)]
    )
    assert np.isfinite(features.frames).all()
    assert features.frames.min() == pytest.approx((np.log(CONFIG.floor) - CONFIG.mean) / CONFIG.std)
    assert features.frames.max() < 4


def test_shared_memory_is_read_without_a_warning():
    clip = noise(8_000)
    clip.waveform.flags.writeable = False
    assert LogMel(CONFIG)([clip]).frames.flags.writeable


def test_copies_and_pickles_compute_the_same():
    log_mel, clip = LogMel(CONFIG), noise(8_000, rate=8_000)
    expected = log_mel([clip]).frames
    for other in (copy.deepcopy(log_mel), pickle.loads(pickle.dumps(log_mel))):
        np.testing.assert_array_equal(other([clip]).frames, expected)


def test_features_made_in_inference_mode_train_a_model():
    with torch.inference_mode():
        frames = LogMel(CONFIG)([noise(8_000, rate=44_100)]).frames
    weights = torch.ones(64, requires_grad=True)
    (torch.from_numpy(frames) @ weights).sum().backward()
    assert weights.grad is not None


def test_no_clips_are_refused():
    with pytest.raises(ValueError, match="at least one clip"):
        LogMel(CONFIG)([])
