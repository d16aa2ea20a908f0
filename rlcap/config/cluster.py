"""How many processes a run has, where they live, and how long they may take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rlcap.config.precision import Precision
from rlcap.config.section import Section, must_be_positive, must_not_be_negative


@dataclass(kw_only=True)
class ClusterConfig(Section):
    """The processes of a run and what each may use."""

    ray_address: str = ""
    """Address of a Ray cluster, such as `auto` or `ray://head:10001`; empty: start Ray on this machine."""
    job_address: str = ""
    """Dashboard of a Ray cluster, such as `http://127.0.0.1:8265`: `rlcap train` hands the run over, and follows it."""
    autoscaling: bool = False
    """Start although the cluster is too small now, since machines join as they are asked for."""
    num_actors: int = 2
    """Processes that caption clips."""
    max_staleness: int = 0
    """Updates by which rollouts may lag behind the learner; 0 is the synchronous, reproducible mode."""
    num_learners: int = 0
    """Learner processes, data-parallel; 0: the learner lives in the driver."""
    weights_precision: Precision = Precision.float32
    """Of the weights on their way to the actors; bfloat16 halves the bytes, and the learner then computes the log-probs
    of the captions itself. The learner and its checkpoints keep the weights in full."""
    actor_cpus: float = 1.0
    """CPUs that each actor reserves."""
    actor_gpus: float = 0.0
    """GPUs that each actor reserves; a fraction shares a GPU."""
    shard_cpus: float = 1.0
    """CPUs that each shard of the reward server reserves."""
    shard_gpus: float = 0.0
    """GPUs that each shard of the reward server reserves."""
    learner_cpus: float = 1.0
    """CPUs that each learner reserves."""
    learner_gpus: float = 0.0
    """GPUs that each learner reserves."""
    actor_nodes: str = ""
    """Ray resource that marks the nodes where actors may live, such as `actor_node`; empty: any node."""
    shard_nodes: str = ""
    """The same for the shards of the reward server."""
    learner_nodes: str = ""
    """The same for learners."""
    rollout_timeout_s: float = 300.0
    """An actor that takes longer over one batch is restarted and its batch is sampled again."""
    start_timeout_s: float = 120.0
    """Longest wait for Ray, the shards, the learners and a first actor to start."""
    learner_timeout_s: float = 1800.0
    """Longest wait for learners in processes of their own to finish an update; then the run ends."""
    stall_s: float = 240.0
    """Where nothing moves for so long, the log says once where each process stands; longer than any update takes."""
    max_restarts: int = 5
    """How often a run goes on from its last checkpoint when a learner or the driver was lost; new ones count anew."""
    restart_delay_s: float = 2.0
    """Wait of `--supervise` before it starts a lost driver again; twice as long each time without a new checkpoint."""

    def faults(self) -> Iterator[str]:
        """Report values outside their range."""
        yield from must_be_positive(
            num_actors=self.num_actors,
            rollout_timeout_s=self.rollout_timeout_s,
            start_timeout_s=self.start_timeout_s,
            learner_timeout_s=self.learner_timeout_s,
            stall_s=self.stall_s,
        )
        yield from must_not_be_negative(
            max_restarts=self.max_restarts,
            restart_delay_s=self.restart_delay_s,
            max_staleness=self.max_staleness,
            num_learners=self.num_learners,
            actor_cpus=self.actor_cpus,
            actor_gpus=self.actor_gpus,
            shard_cpus=self.shard_cpus,
            shard_gpus=self.shard_gpus,
            learner_cpus=self.learner_cpus,
            learner_gpus=self.learner_gpus,
        )
        if self.job_address and not self.job_address.startswith(("http://", "https://")):
            yield f"job_address must begin with http:// or https://, got {self.job_address!r}"


def placed_on(nodes: str) -> dict[str, float]:
    """Return what a process asks of Ray to live on nodes so marked: a trace, so that a node has room for many."""
    return {nodes: 0.001} if nodes else {}
