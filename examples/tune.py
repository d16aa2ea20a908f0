"""Search settings of PPO with Ray Tune: short runs over one baseline and one reward model, the poor ones cut short.

    python examples/tune.py experiment=quickstart training.num_updates=60

Takes the settings of `rlcap train`; `cluster=ray` searches on the Ray cluster that this machine is part of. Stages
before PPO are made once, and kept in the cache. What is searched, and how a trial is judged, stands below: edit it.
Writes `runs/tune/<experiment>`, and says the best settings as they go on the command line of `rlcap train`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from actors.env_runner import ActorPlan
from reward_server.group import RewardServer
from rlcap.algorithm.caption_ppo import build_algorithm
from rlcap.algorithm.ray_session import ray_session
from rlcap.algorithm.settings import RunPlan
from rlcap.config.cluster import placed_on
from rlcap.config.load import load_config
from rlcap.config.run import RunConfig
from rlcap.pipeline.clips import open_audio
from rlcap.pipeline.stages import Stages
from rlcap.protocols import AudioSource

NUM_TRIALS = 8
SPACE = {
    "kl_coef": tune.loguniform(0.02, 0.5),
    "learning_rate": tune.loguniform(1e-4, 1e-3),
    "entropy_coef": tune.uniform(0.0, 0.05),
}
"""Fields of `algorithm`, and where they are looked for."""
KL_BUDGET = 3.0
"""Nats a caption may drift from the baseline for nothing: reward alone would be bought by any drift."""


def score(metrics: dict[str, float]) -> float:
    """Judge a policy: its reward, less one for each nat beyond the budget."""
    return metrics["rollout/reward_mean"] - max(0.0, metrics["rollout/kl_to_reference"] - KL_BUDGET)


def trial(space: dict[str, float], config: RunConfig, source: AudioSource, baseline: Path, reward: Path) -> None:
    """Run PPO with one choice of settings, and report every update."""
    server = RewardServer.start(reward, config.reward, config.cluster)
    actor = ActorPlan(
        source=source,
        baseline=baseline,
        sampling=config.sampling,
        samples_per_clip=config.training.samples_per_clip,
        num_threads=max(1, int(config.cluster.actor_cpus)),
    )
    ppo = replace(config.algorithm, **space)
    algorithm = build_algorithm(RunPlan(actor, server.client(), ppo, config.training, config.cluster, config.seed))
    try:
        for _ in range(config.training.num_updates):
            algorithm.train()
            metrics = algorithm.last_report.metrics
            tune.report({"score": score(metrics), **metrics})
    finally:
        algorithm.stop()
        server.stop()


def room(config: RunConfig) -> tune.PlacementGroupFactory:
    """What one trial takes: its driver, and every process that it starts."""
    cluster = config.cluster
    learner = {"CPU": cluster.learner_cpus, "GPU": cluster.learner_gpus, **placed_on(cluster.learner_nodes)}
    actor = {"CPU": cluster.actor_cpus, "GPU": cluster.actor_gpus, **placed_on(cluster.actor_nodes)}
    shard = {"CPU": cluster.shard_cpus, "GPU": cluster.shard_gpus, **placed_on(cluster.shard_nodes)}
    processes = [learner] * cluster.num_learners + [actor] * cluster.num_actors + [shard] * config.reward.num_shards
    return tune.PlacementGroupFactory([{"CPU": 1.0}, *processes])


def search(config: RunConfig, num_trials: int) -> tune.Result:
    """Make the stages before PPO, try settings, and return the best trial. Needs a Ray session."""
    stages = Stages(config)
    num_updates = config.training.num_updates
    fixed = {
        "config": config,
        "source": open_audio(config.data, stages.cache),
        "baseline": stages.baseline.path.resolve(),
        "reward": stages.reward(config.reward.head.kind).path.resolve(),
    }
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, **fixed), room(config)),
        param_space=SPACE,
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            num_samples=num_trials,
            scheduler=ASHAScheduler(max_t=num_updates, grace_period=min(10, num_updates)),
        ),
        run_config=tune.RunConfig(name=config.experiment, storage_path=str(Path("runs/tune").resolve())),
    )
    return tuner.fit().get_best_result(scope="last")


if __name__ == "__main__":
    settings = load_config(sys.argv[1:])
    with ray_session(settings.cluster, settings.reward.num_shards):
        best = search(settings, NUM_TRIALS)
    found = " ".join(f"algorithm.{name}={value:.3g}" for name, value in best.config.items())
    sys.stdout.write(f"best score {best.metrics['score']:.3f}: {found}\n")
