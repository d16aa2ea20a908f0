"""The synthetic world: clip number `index` of world `seed`, and what happens in it."""

from __future__ import annotations

import numpy as np

from rlcap.soundscapes.scene import Scene, SceneEvent
from rlcap.soundscapes.synthesis.kinds import KINDS, SoundKind
from rlcap.soundscapes.synthesis.signals import Waveform, low_pass, num_samples, unit_rms, white_noise
from rlcap.types import Clip

SAMPLE_RATE_HZ = 16_000
LABELS: tuple[str, ...] = tuple(KINDS)

MIN_DURATION_S, MAX_DURATION_S = 3.0, 5.0
MARGIN_S = 0.1
MAX_COUNT = 3
CREST = np.float32(6.0)
"""Peaks of an event end at this multiple of its root mean square."""
# How many events sound together in each stretch of a scene, and how likely that layout is.
LAYOUTS: tuple[tuple[int, ...], ...] = ((1,), (1, 1), (2,), (1, 1, 1), (2, 1), (1, 2))
LAYOUT_SHARES = (0.60, 0.20, 0.12, 0.03, 0.03, 0.02)


def render(seed: int, index: int) -> tuple[Clip, Scene]:
    """Synthesise clip `index` of world `seed`: 3 to 5 s at 16 kHz. A pure function of its arguments."""
    rng = _generator(seed, index)
    scene = draw_scene(rng, dealt_label(seed, index))
    return Clip(f"soundscape-{seed}-{index}", render_scene(scene, rng), SAMPLE_RATE_HZ), scene


def scene_of(seed: int, index: int) -> Scene:
    """Return the scene of clip `index` without synthesising it."""
    return draw_scene(_generator(seed, index), dealt_label(seed, index))


def dealt_label(seed: int, index: int) -> str:
    """Return a sound that clip `index` holds: labels are dealt like cards, so that a small split lacks none of them."""
    deck, card = divmod(index, len(LABELS))
    sequence = np.random.SeedSequence(seed, spawn_key=(deck,))
    return LABELS[int(np.random.default_rng(sequence).permutation(len(LABELS))[card])]


def draw_scene(rng: np.random.Generator, label: str) -> Scene:
    """Draw one to three events, `label` among them, together or one after the other."""
    layout = LAYOUTS[rng.choice(len(LAYOUTS), p=LAYOUT_SHARES)]
    others = rng.permutation([other for other in LABELS if other != label])
    kinds = [KINDS[chosen] for chosen in rng.permutation([label, *others[: sum(layout) - 1]])]
    end_s = rng.uniform(MIN_DURATION_S, MAX_DURATION_S)
    if len(layout) == 3:
        end_s = MAX_DURATION_S
    bounds_s = np.cumsum([0.0, *rng.uniform(0.8, 1.2, len(layout))])
    bounds_s = MARGIN_S + bounds_s / bounds_s[-1] * (end_s - 2 * MARGIN_S)
    events: list[SceneEvent] = []
    for size, start_s, stop_s in zip(layout, bounds_s[:-1], bounds_s[1:], strict=True):
        chosen = [kinds.pop() for _ in range(size)]
        events += _draw_stretch(rng, chosen, float(start_s) + 0.05, float(stop_s) - 0.05)
    return Scene(tuple(events))


def render_scene(scene: Scene, rng: np.random.Generator) -> Waveform:
    """Synthesise the scene over background noise, each event 12 to 20 dB above it, peak below 0.95.

    Raises KeyError for a label that is not among `LABELS`.
    """
    last_s = max((event.offset_s for event in scene.events), default=0.0)
    duration_s = max(last_s + MARGIN_S, rng.uniform(MIN_DURATION_S, max(MIN_DURATION_S, last_s + 0.5)))
    mixture = _background(rng, num_samples(min(duration_s, max(MAX_DURATION_S, last_s)), SAMPLE_RATE_HZ))
    for event in scene.events:
        sound = KINDS[event.label].perform(rng, event.duration_s, SAMPLE_RATE_HZ, event.count)
        onset = int(event.onset_s * SAMPLE_RATE_HZ)
        sound = _faded(sound[: len(mixture) - onset])
        mixture[onset : onset + len(sound)] += np.float32(10 ** (rng.uniform(12, 20) / 20)) * sound
    peak = np.float32(np.abs(mixture).max() + 1e-9)
    return mixture * (np.float32(rng.uniform(0.3, 0.95)) / peak)


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, index]))


def _draw_stretch(rng: np.random.Generator, kinds: list[SoundKind], start_s: float, stop_s: float) -> list[SceneEvent]:
    """Place these kinds so that they sound together: the longer one first, the other inside it."""
    lengths = [_draw_length(rng, kind, stop_s - start_s) for kind in kinds]
    events: list[SceneEvent] = []
    for kind, (duration_s, count) in sorted(zip(kinds, lengths, strict=True), key=lambda pair: -pair[1][0]):
        onset_s = float(rng.uniform(start_s, max(start_s, stop_s - duration_s)))
        start_s, stop_s = onset_s, onset_s + duration_s
        events.append(SceneEvent(kind.label, onset_s, stop_s, count))
    return events


def _draw_length(rng: np.random.Generator, kind: SoundKind, room_s: float) -> tuple[float, int]:
    """Draw the duration and count of an event with `room_s` seconds to fill."""
    if kind.stroke_s is None:
        return float(room_s * rng.uniform(0.8, 1.0)), 0
    stroke_s = rng.uniform(*kind.stroke_s)
    most = int(np.clip((room_s / stroke_s + 0.2) / 1.2, 1, MAX_COUNT))
    count = int(rng.integers(1, most + 1))
    return float(min(room_s, stroke_s * (1.2 * count - 0.2))), count


def _background(rng: np.random.Generator, length: int) -> Waveform:
    """Noise of a room or a street, coloured at random, of unit root mean square."""
    noise = white_noise(rng, length)
    rumble = unit_rms(low_pass(noise, rng.uniform(100, 1500), SAMPLE_RATE_HZ))
    return unit_rms(rumble + np.float32(rng.uniform(0.05, 0.5)) * noise)


def _faded(sound: Waveform) -> Waveform:
    """Scale to unit root mean square where it sounds, fade its edges over 10 ms, and tame its peaks."""
    edge = min(160, len(sound) // 2)
    ramp = np.linspace(0, 1, edge, dtype=np.float32)
    faded = sound.copy()
    faded[:edge] *= ramp
    faded[len(faded) - edge :] *= ramp[::-1]
    power = np.add.reduceat(np.square(faded), np.arange(0, len(faded), 400)) / 400
    active = power[power > 0.05 * power.max()]
    # One sharp crackle must not push everything else in the clip below hearing.
    tamed: Waveform = CREST * np.tanh(faded / (CREST * np.float32(np.sqrt(active.mean()) + 1e-9)))
    return tamed
