import numpy as np
import pytest
import soundfile

from rlcap.audio.inspection import CHUNK_CLIPS, inspect
from rlcap.audio.sources import open_source
from rlcap.config.data import DataConfig, SourceKind
from rlcap.soundscapes.stream import SoundscapeSource


def test_a_source_is_counted_and_measured(tmp_path):
    for number in range(CHUNK_CLIPS + 3):
        rate = 8_000 if number % 2 else 16_000
        soundfile.write(tmp_path / f"{number:03}.wav", 0.5 * np.ones((1 + number % 3) * rate // 2), rate)
    soundfile.write(tmp_path / "silent.wav", np.zeros(8_000), 16_000)
    soundfile.write(tmp_path / "quiet.wav", np.full(8_000, 1e-7), 16_000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("x")
    steps: list[tuple[int, int]] = []
    source = open_source(DataConfig(kind=SourceKind.folder, root=str(tmp_path)))
    report = inspect(source, lambda done, total: steps.append((done, total)))
    assert (report.num_clips, report.num_usable) == (38, 35)
    assert report.sample_rates == {8_000: 17, 16_000: 18}
    assert (report.shortest_s, report.longest_s) == (0.5, 1.5)
    assert report.total_duration_s == pytest.approx(12 * 0.5 + 12 * 1.0 + 11 * 1.5)
    assert report.quarantine.counts_by_reason() == {"silent": 2, "not audio that can be read": 1}
    assert steps == [(32, 38), (38, 38)]


def test_a_source_without_a_usable_clip_has_no_durations(tmp_path):
    (tmp_path / "text.wav").write_text("x")
    report = inspect(open_source(DataConfig(kind=SourceKind.folder, root=str(tmp_path))))
    assert (report.num_usable, report.total_duration_s, report.shortest_s, report.longest_s) == (0, 0.0, 0.0, 0.0)


def test_endless_sources_are_refused():
    with pytest.raises(ValueError, match="endless"):
        inspect(SoundscapeSource(seed=0))
