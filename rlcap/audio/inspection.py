"""A look at every clip of a source before a run depends on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from rlcap.audio.quarantine import QuarantineList
from rlcap.protocols import AudioSource

CHUNK_CLIPS = 32
"""Clips decoded between two calls of the progress callback; no more are in memory."""
MAX_CLIPS = 2**40


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a source holds."""

    num_clips: int
    num_usable: int
    total_duration_s: float
    """Of the usable clips, as are the others."""
    shortest_s: float
    longest_s: float
    sample_rates: dict[int, int]
    """Number of clips by sample rate in Hz, in order of rate."""
    quarantine: QuarantineList


def inspect(source: AudioSource, on_progress: Callable[[int, int], None] | None = None) -> Inspection:
    """Decode every clip once; `on_progress` is told the number of clips done, and of all.

    Raises:
        ValueError: the source is endless.
    """
    num_clips = len(source)
    if num_clips > MAX_CLIPS:
        raise ValueError("an endless source cannot be inspected")
    durations: list[float] = []
    sample_rates: Counter[int] = Counter()
    quarantine = QuarantineList()
    for start in range(0, num_clips, CHUNK_CLIPS):
        stop = min(start + CHUNK_CLIPS, num_clips)
        clips, quarantined = source.read(range(start, stop))
        durations += [len(clip.waveform) / clip.sample_rate_hz for clip in clips]
        sample_rates.update(clip.sample_rate_hz for clip in clips)
        quarantine.add(quarantined)
        if on_progress is not None:
            on_progress(stop, num_clips)
    return Inspection(
        num_clips=num_clips,
        num_usable=len(durations),
        total_duration_s=sum(durations),
        shortest_s=min(durations, default=0.0),
        longest_s=max(durations, default=0.0),
        sample_rates=dict(sorted(sample_rates.items())),
        quarantine=quarantine,
    )
