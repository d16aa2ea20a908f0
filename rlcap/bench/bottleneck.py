"""What holds a run up, and the setting to change."""

from __future__ import annotations

BUSY = 0.9
"""From here on, nothing is left to be had."""
IDLE = 0.1


def find_bottleneck(
    *, max_staleness: int, learner_idle: float, actor_idle: float, cores_busy: float, reward_share: float
) -> str:
    """Name the part that the others wait for.

    Args:
        max_staleness: the bound; 0 is the synchronous mode.
        learner_idle: share of the time in which the learner waited.
        actor_idle: share of the time in which actors waited.
        cores_busy: share of the machine's cores that computed.
        reward_share: of an actor's time, what it takes to have its captions scored.
    """
    if cores_busy > BUSY:
        return "the cores of this machine: all of them compute; more cores or a GPU (cluster.actor_gpus) would help"
    if not max_staleness and learner_idle > IDLE and actor_idle > IDLE:
        return "turns: learner and actors wait for each other; cluster.max_staleness=1 lets them work side by side"
    if learner_idle <= actor_idle:
        return "the learner: give it a GPU (cluster.learner_gpus=1), or more of them (cluster.num_learners)"
    if reward_share > 0.5:
        return "the reward server: raise reward.num_shards, or give shards GPUs (cluster.shard_gpus)"
    return "the actors: raise cluster.num_actors, or give them GPUs (cluster.actor_gpus)"
