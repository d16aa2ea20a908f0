import csv
import os
import resource
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rlcap.audio.decoding import MAX_PEAK, DecodeLimits, decode
from rlcap.audio.native_stderr import muted_native_stderr
from rlcap.config.data import DataConfig
from rlcap.errors import ClipError

ODD_AUDIO = Path(__file__).parents[2].parent / "shared/data/odd_audio"
ESC10 = Path(__file__).parents[2].parent / "shared/data/esc10"
LIMITS = DecodeLimits()


def tone(duration_s: float = 0.5, rate: int = 16_000, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 440 * np.arange(round(duration_s * rate)) / rate)).astype(np.float32)


def reason_of(audio: Path | bytes, limits: DecodeLimits = LIMITS) -> str:
    with pytest.raises(ClipError) as caught:
        decode(audio, "clip", limits)
    return str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        (".wav", "PCM_16", 1e-4),
        (".wav", "FLOAT", 0),
        (".flac", "PCM_16", 1e-4),
        (".ogg", "VORBIS", 0.1),
        (".mp3", None, 0.1),
    ],
)
def test_clips_come_out_of_every_format_from_a_path_and_from_bytes(tmp_path, suffix, subtype, tolerance):
    path = tmp_path / f"tone{suffix}"
    soundfile.write(path, tone(), 16_000, subtype=subtype)
    clip = decode(path, "a tone", LIMITS)
    assert (clip.clip_id, clip.sample_rate_hz, clip.waveform.dtype) == ("a tone", 16_000, np.float32)
    length = min(len(clip.waveform), 8_000)
    np.testing.assert_allclose(clip.waveform[:length], tone()[:length], atol=tolerance)
    np.testing.assert_array_equal(decode(path.read_bytes(), "bytes", LIMITS).waveform, clip.waveform)


def test_channels_are_averaged(tmp_path):
    path = tmp_path / "stereo.wav"
    left, right = tone(level=0.8), tone(level=0.2)
    soundfile.write(path, np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(decode(path, "clip", LIMITS).waveform, (left + right) / 2, atol=1e-6)


def test_clips_longer_than_a_block_come_out_whole(tmp_path):
    path = tmp_path / "long.wav"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (700_000, 2)).astype(np.float32)
    soundfile.write(path, samples, 44_100, subtype="FLOAT")
    np.testing.assert_array_equal(decode(path, "clip", LIMITS).waveform, samples.mean(axis=1))


def test_samples_slightly_above_full_scale_are_clipped_and_integers_stored_as_floats_refused(tmp_path):
    path = tmp_path / "loud.wav"
    soundfile.write(path, tone(level=1.2), 16_000, subtype="FLOAT")
    assert np.abs(decode(path, "clip", LIMITS).waveform).max() == 1.0
    soundfile.write(path, tone(level=2 * MAX_PEAK), 16_000, subtype="FLOAT")
    assert reason_of(path).startswith("samples far above full scale: peak 8")


def test_every_fault_has_its_reason(tmp_path):
    def written(samples: np.ndarray, rate: int = 16_000) -> Path:
        path = tmp_path / "clip.wav"
        soundfile.write(path, samples, rate, subtype="FLOAT")
        return path

    text = tmp_path / "notes.wav"
    text.write_text("these are no sounds\n" * 100)
    (tmp_path / "empty.wav").touch()
    assert reason_of(tmp_path / "gone.wav") == "missing file"
    assert reason_of(tmp_path) == "not a regular file"
    assert reason_of(tmp_path / "empty.wav") == "empty file"
    assert reason_of(b"") == "empty file"
    assert reason_of(text) == "not audio that can be read: Format not recognised"
    assert reason_of(written(np.zeros(0, np.float32))) == "no samples"
    assert reason_of(written(np.zeros(8_000, np.float32))).startswith("silent: all samples are zero")
    assert reason_of(written(tone(level=1e-5))).startswith("silent: peak -100 dBFS")
    assert reason_of(written(tone(0.05))) == "shorter than 0.1 s: 0.05 s"
    assert reason_of(written(tone(2.0)), DecodeLimits(max_duration_s=1.5)) == "longer than 1.5 s"
    assert (
        reason_of(written(np.where(np.arange(8_000) == 7, np.nan, tone())))
        == "samples that are NaN or infinite: 1 of 8000"
    )
    opposite = np.stack([tone(), tone()], axis=1)
    opposite[3] = np.inf, -np.inf
    assert reason_of(written(opposite)) == "samples that are NaN or infinite: 1 of 8000"
    assert reason_of(written(tone(), rate=999)) == "impossible sample rate: 999 Hz"
    assert reason_of(written(np.zeros((9, 65), np.float32))) == "impossible number of channels: 65"


@pytest.mark.parametrize("name", ["sound.raw", "sound.gsm", "sound.vox", "sound.mp3"])
def test_no_ending_makes_noise_of_text(tmp_path, name):
    path = tmp_path / name
    path.write_text("these are no sounds\n" * 1000)
    assert reason_of(path).startswith("not audio that can be read")


def test_a_pipe_does_not_block(tmp_path):
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    assert reason_of(pipe) == "not a regular file"


def test_an_unreadable_link_loop_is_a_reason(tmp_path):
    loop = tmp_path / "loop.wav"
    loop.symlink_to(loop)
    assert reason_of(loop).startswith("file cannot be opened: ")


def test_a_cut_wav_gives_what_it_holds_and_a_cut_flac_says_that_it_is_damaged(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    for suffix in (".wav", ".flac"):
        path = tmp_path / f"whole{suffix}"
        soundfile.write(path, samples, 16_000)
        (tmp_path / f"cut{suffix}").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = decode(tmp_path / "cut.wav", "clip", LIMITS)
    assert 7_900 < len(clip.waveform) <= 8_000
    np.testing.assert_allclose(clip.waveform, samples[: len(clip.waveform)], atol=1e-4)
    assert reason_of(tmp_path / "cut.flac").startswith("damaged or cut short: ")


def test_a_header_that_promises_hours_takes_no_memory(tmp_path):
    path = tmp_path / "liar.wav"
    soundfile.write(path, tone(), 16_000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", 0x7FFFFFF0)
    before = peak_rss_bytes()
    assert len(decode(bytes(content), "clip", LIMITS).waveform) == 8_000
    assert peak_rss_bytes() - before < 2**25


def test_decoding_stops_as_soon_as_a_clip_is_too_long(tmp_path):
    path = tmp_path / "hours.flac"
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        for _ in range(60):
            file.write(np.tile([0.0, 0.5], 240_000))
    before, start = peak_rss_bytes(), time.process_time()
    assert reason_of(path) == "longer than 30 s"
    assert time.process_time() - start < 0.5
    assert peak_rss_bytes() - before < 2**25


def test_limits_come_from_the_settings():
    config = DataConfig(min_duration_s=1.0, max_duration_s=2.0, silence_dbfs=-50.0)
    assert DecodeLimits.of(config) == DecodeLimits(1.0, 2.0, -50.0)


def test_native_warnings_are_muted_and_later_messages_are_not(capfd):
    def write_from_another_thread() -> None:
        with muted_native_stderr():
            os.write(2, b"inner ")

    with muted_native_stderr():
        os.write(2, b"outer ")
        thread = threading.Thread(target=write_from_another_thread)
        thread.start()
        thread.join()
        os.write(2, b"still muted ")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


@pytest.mark.skipif(not ODD_AUDIO.is_dir(), reason="the folder of odd audio files is not here")
@pytest.mark.parametrize("as_bytes", [False, True])
def test_odd_files_decode_or_say_why_not_within_seconds_and_little_memory(as_bytes, capfd):
    with (ODD_AUDIO / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    before, start = peak_rss_bytes(), time.perf_counter()
    num_decoded, reasons = 0, []
    for row in rows:
        path = ODD_AUDIO / row["path"]
        try:
            clip = decode(path.read_bytes() if as_bytes else path, row["path"], LIMITS)
        except ClipError as error:
            reasons.append(str(error))
            continue
        num_decoded += 1
        assert row["libsndfile"] == "ok"
        assert (clip.sample_rate_hz, len(clip.waveform)) == (int(row["sr"]), int(row["frames_read"]))
        assert np.isfinite(clip.waveform).all()
        assert np.abs(clip.waveform).max() <= 1.0
    assert num_decoded + len(reasons) == 267
    assert num_decoded > 90
    assert all(reasons)
    assert time.perf_counter() - start < 10
    assert peak_rss_bytes() - before < 2**26
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not ESC10.is_dir(), reason="ESC-10 is not here")
def test_real_recordings_decode():
    paths = sorted((ESC10 / "audio").rglob("*.ogg"))[::40]
    assert paths
    for path in paths:
        clip = decode(path, path.name, DecodeLimits(silence_dbfs=-100))
        assert clip.sample_rate_hz == 44_100
        assert 4.9 < len(clip.waveform) / 44_100 < 5.1


def peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
