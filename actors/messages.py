"""What travels between driver and caption actors, beside rollouts. Importing it brings in neither Torch nor RLlib."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from rlcap.protocols import RewardClient
from rlcap.types import Quarantined


@dataclass(frozen=True, slots=True)
class RewardReference:
    """Who scores, in Ray's object store: inside this value Ray does not fetch it, and actors do where it is new."""

    client: ray.ObjectRef[RewardClient]


@dataclass(frozen=True, slots=True)
class RolloutInfo:
    """What the driver needs to know of a batch, without its rollouts."""

    policy_version: int
    reward_version: str
    """Empty where nothing was scored."""
    num_captions: int
    """0 where no clip of the batch could be used: then there are no rollouts."""
    audio_s: float
    """Seconds of audio heard."""
    began_at_s: float
    """When the actor took the batch up, in seconds since the epoch, by the clock of its machine."""
    wall_s: float
    audio_wait_s: float
    """How long the audio let the captioner wait."""
    load_s: float
    """How long it took to load new weights; 0 where they were here already."""
    quarantined: tuple[Quarantined, ...]
