"""The catalogue: which sounds there are, and which of them can be counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlcap.soundscapes.synthesis import animals, machines, noises, objects
from rlcap.soundscapes.synthesis.signals import Waveform, num_samples

Synthesiser = Callable[[np.random.Generator, float, int], Waveform]


@dataclass(frozen=True, slots=True)
class SoundKind:
    """One kind of sound event."""

    label: str
    synthesise: Synthesiser
    """Maps (rng, duration_s, sample_rate_hz) to the sound, or to one stroke of a sound that can be counted."""
    stroke_s: tuple[float, float] | None = None
    """Shortest and longest stroke in seconds; None for a sound that goes on."""

    @property
    def countable(self) -> bool:
        """Whether a listener can count its strokes."""
        return self.stroke_s is not None

    def perform(self, rng: np.random.Generator, duration_s: float, sample_rate_hz: int, count: int) -> Waveform:
        """Fill `duration_s` with the sound; a countable one with `count` strokes of one voice, evenly spread."""
        if not self.countable:
            return self.synthesise(rng, duration_s, sample_rate_hz)
        stroke = self.synthesise(rng, duration_s / (count + 0.2 * (count - 1)), sample_rate_hz)
        performed = np.zeros(num_samples(duration_s, sample_rate_hz), dtype=np.float32)
        for onset in np.linspace(0, max(0, len(performed) - len(stroke)), count).astype(int):
            varied = _vary(rng, stroke)[: len(performed) - onset]
            performed[onset : onset + len(varied)] += varied
        return performed


def _vary(rng: np.random.Generator, stroke: Waveform) -> Waveform:
    """The same voice once more: up to 3 % higher or shorter, up to 2 dB softer."""
    speed, gain = rng.uniform(1.0, 1.03), 10 ** rng.uniform(-0.1, 0.0)
    positions = np.arange(0, len(stroke) - 1, speed)
    return (gain * np.interp(positions, np.arange(len(stroke)), stroke)).astype(np.float32)


KINDS: dict[str, SoundKind] = {
    kind.label: kind
    for kind in (
        SoundKind("rain", noises.rain),
        SoundKind("wind", noises.wind),
        SoundKind("fire crackling", noises.fire_crackling),
        SoundKind("applause", noises.applause),
        SoundKind("thunder", noises.thunder, stroke_s=(0.9, 1.6)),
        SoundKind("engine", machines.engine),
        SoundKind("helicopter", machines.helicopter),
        SoundKind("siren", machines.siren),
        SoundKind("clock tick", machines.clock_tick),
        SoundKind("footsteps", machines.footsteps),
        SoundKind("bird song", animals.bird_song),
        SoundKind("crickets", animals.crickets),
        SoundKind("baby cry", animals.baby_cry),
        SoundKind("dog bark", animals.dog_bark, stroke_s=(0.22, 0.38)),
        SoundKind("cat meow", animals.cat_meow, stroke_s=(0.5, 0.8)),
        SoundKind("bell", objects.bell, stroke_s=(0.6, 0.9)),
        SoundKind("knock", objects.knock, stroke_s=(0.18, 0.28)),
        SoundKind("car horn", objects.car_horn, stroke_s=(0.3, 0.5)),
        SoundKind("telephone ring", objects.telephone_ring, stroke_s=(0.5, 0.8)),
        SoundKind("whistle", objects.whistle, stroke_s=(0.4, 0.7)),
    )
}
