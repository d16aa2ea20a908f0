"""A run in real processes at its smallest: soundscapes, a tiny captioner, and a tiny reward model in the actor itself.

Workers cannot import this file: pickle it by value.
"""

import numpy as np
import torch

from actors.env_runner import ActorPlan
from reward_server.heads import MlpHead
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from rlcap.audio.arrow_store import ClipStore, write_clip_store
from rlcap.audio.features import LogMelConfig
from rlcap.config.captioner import SamplingConfig
from rlcap.config.reward import ClapConfig
from rlcap.protocols import RewardClient
from rlcap.soundscapes.world import render
from rlcap.types import Quarantined, RewardBatch

CLAP = ClapConfig(embedding_dim=16, audio_channels=[4, 4, 4, 4], num_segments=2, text_width=16, num_heads=2)


class RewardHere(RewardClient):
    """A reward model in the caption actor itself."""

    def __init__(self, directory):
        self._directory = directory
        self._model = None

    def score(self, request):
        if self._model is None:
            torch.manual_seed(0)
            self._model = ClapReward.load(self._directory)
        scores = self._model.score(self._model.embed_audio(request.clips), request.captions, request.clip_index)
        return RewardBatch(scores, np.zeros(len(scores), dtype=bool), (), "small")


class WithoutSome:
    """A source of which some clips cannot be used."""

    def __init__(self, source, bad):
        self._source = source
        self._bad = bad

    def __len__(self):
        return len(self._source)

    def read(self, positions):
        clips, _ = self._source.read([position for position in positions if position not in self._bad])
        return clips, [Quarantined(f"{position}.wav", "silent") for position in positions if position in self._bad]


def build_reward():
    """A reward model with random weights."""
    torch.manual_seed(0)
    clap = SmallClap.for_captions(CLAP, ["a dog barks", "then rain falls"], LogMelConfig(), seed=0)
    return ClapReward(clap, MlpHead(16, [8, 4]))


def lay_out_run(directory, baseline, num_clips):
    """Write what all plans of `plan_actor` and `RewardHere(directory / "reward")` read."""
    write_clip_store(directory / "clips.arrow", ((render(0, index)[0], "{}") for index in range(num_clips)))
    baseline.save(directory / "baseline")
    build_reward().save(directory / "reward")
    return directory


def plan_actor(directory, samples_per_clip, *, bad=frozenset(), max_new_tokens=8):
    """What an actor of such a run is given; clips at the positions in `bad` cannot be used."""
    return ActorPlan(
        source=WithoutSome(ClipStore(directory / "clips.arrow"), bad),
        baseline=directory / "baseline",
        sampling=SamplingConfig(max_new_tokens=max_new_tokens),
        samples_per_clip=samples_per_clip,
        num_threads=1,
    )
