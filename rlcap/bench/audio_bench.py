"""How fast clips are read, by every kind of source in turns, and by Ray Data from the same files."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import ray

from actors.audio_cursor import AudioCursor
from rlcap.algorithm.ray_session import ray_session
from rlcap.audio.arrow_store import ClipStore
from rlcap.audio.decoding import DecodeLimits, decode
from rlcap.audio.sources import open_source
from rlcap.bench.audio_files import AUDIO, AudioFiles, write_audio_files
from rlcap.bench.hardware import Hardware, describe_hardware
from rlcap.config.cluster import ClusterConfig
from rlcap.config.data import DataConfig, SourceKind
from rlcap.errors import ConfigError
from rlcap.pipeline.progress import progress_bar
from rlcap.protocols import AudioSource

CLIPS_PER_BATCH = 16
STORE, PARQUET, RAY_DATA = "clip store", "parquet", "Ray Data, parquet"
PROBE_S = 0.5
"""A round passes over the clips until at least so long has gone by."""

Pass = Callable[[], tuple[int, float]]
"""Reads every clip once; returns how many there were, and the seconds to the first batch."""


@dataclass(frozen=True, slots=True)
class ReaderSpeed:
    """One way to read; medians of the rounds."""

    reader: str
    clips_per_s: float
    us_per_clip: float
    audio_s_per_s: float
    first_batch_ms: float
    """From the begin of a pass to its first batch."""


@dataclass(frozen=True, slots=True)
class AudioBench:
    """All figures."""

    hardware: Hardware
    num_rounds: int
    num_clips: int
    clip_s: float
    speeds: tuple[ReaderSpeed, ...]

    def as_json(self) -> dict[str, object]:
        """Plain values; `speedup_vs_ray_data` is that of reading the same Parquet files, where it was measured."""
        speed = {one.reader: one.clips_per_s for one in self.speeds}
        measured = {"speedup_vs_ray_data": speed[PARQUET] / speed[RAY_DATA]} if RAY_DATA in speed else {}
        return {**asdict(self), **measured}


def bench_audio(num_clips: int, clip_s: float, num_rounds: int, *, with_ray_data: bool = True) -> AudioBench:
    """Read the same clips from every kind of source, in the shuffled batches of a run.

    Raises:
        ConfigError: a number is not positive.
    """
    if min(num_clips, num_rounds) < 1 or clip_s < DecodeLimits().min_duration_s:
        raise ConfigError(
            f"--clips and --rounds must be above 0, and --seconds {DecodeLimits().min_duration_s} or more, got "
            f"{num_clips}, {num_rounds} and {clip_s}"
        )
    with (
        tempfile.TemporaryDirectory(prefix="rlcap-bench-") as directory,
        _quiet_ray_data() if with_ray_data else nullcontext(),
        progress_bar("audio readers", num_rounds) as advance,
    ):
        files = write_audio_files(Path(directory), num_clips, clip_s)
        passes = _passes(files, with_ray_data=with_ray_data)
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in passes}
        for number in range(num_rounds + 1):
            for name, one_pass in passes.items():
                found = _timed(one_pass)
                if number:  # the first one warms up
                    rounds[name].append(found)
            if number:
                advance("")
    speeds = tuple(_speed(name, found, clip_s) for name, found in rounds.items())
    return AudioBench(describe_hardware(), num_rounds, num_clips, clip_s, speeds)


def _passes(files: AudioFiles, *, with_ray_data: bool) -> Mapping[str, Pass]:
    sources: dict[str, AudioSource] = {
        STORE: ClipStore(files.store),
        "manifest": open_source(DataConfig(kind=SourceKind.manifest, root=str(files.folder))),
        PARQUET: open_source(DataConfig(kind=SourceKind.parquet, root=str(files.parquet), audio_column=AUDIO)),
        "webdataset": open_source(DataConfig(kind=SourceKind.webdataset, root=str(files.shards))),
    }
    own = {name: _pass_over(source) for name, source in sources.items()}
    return {**own, RAY_DATA: lambda: _ray_data_pass(files.parquet)} if with_ray_data else own


def _pass_over(source: AudioSource) -> Pass:
    """One epoch of a run, batch by batch."""
    cursor = AudioCursor(len(source), CLIPS_PER_BATCH, seed=0)

    def read() -> tuple[int, float]:
        begun, first_s, num_clips = time.perf_counter(), 0.0, 0
        while num_clips < len(source):
            clips, quarantined = source.read(cursor.next().positions)
            assert not quarantined, f"a clip of the benchmark cannot be read: {quarantined[0].reason}"
            first_s = first_s or time.perf_counter() - begun
            num_clips += len(clips)
        return num_clips, first_s

    return read


def _ray_data_pass(folder: Path) -> tuple[int, float]:
    """The same files by Ray Data: decoded in its tasks, in the order of the files."""
    begun, first_s, num_clips = time.perf_counter(), 0.0, 0
    clips = ray.data.read_parquet(str(folder)).map_batches(_decode_all, batch_size=CLIPS_PER_BATCH)
    for batch in clips.iter_batches(batch_size=CLIPS_PER_BATCH):
        first_s = first_s or time.perf_counter() - begun
        num_clips += len(batch["waveform"])
    return num_clips, first_s


def _decode_all(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    waveforms = [decode(content, "clip", DecodeLimits()).waveform for content in batch[AUDIO]]
    return {"waveform": np.stack(waveforms)}


def _timed(one_pass: Pass) -> tuple[float, float]:
    """Clips per second, and seconds to the first batch of the first pass."""
    begun = time.perf_counter()
    num_clips, first_s = one_pass()
    while (passed := time.perf_counter() - begun) < PROBE_S:
        num_clips += one_pass()[0]
    return num_clips / passed, first_s


def _speed(reader: str, rounds: list[tuple[float, float]], clip_s: float) -> ReaderSpeed:
    clips_per_s, first_s = (float(median) for median in np.median(rounds, axis=0))
    return ReaderSpeed(reader, clips_per_s, 1e6 / clips_per_s, clips_per_s * clip_s, 1000 * first_s)


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """A session of Ray in which Ray Data keeps its bars and plans off the terminal."""
    import ray.data  # Ray does not load it by itself

    log, context = logging.getLogger("ray.data"), ray.data.DataContext.get_current()
    before = log.level, context.enable_progress_bars
    log.setLevel(logging.ERROR)
    context.enable_progress_bars = False
    try:
        with ray_session(ClusterConfig(), 0):
            yield
    finally:
        log.setLevel(before[0])
        context.enable_progress_bars = before[1]
