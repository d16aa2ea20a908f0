"""RLlib's settings for a caption run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from actors.env_runner import STUB_SPACE, ActorPlan, CaptionEnvRunner
from learner.ppo_learner import CaptionPPOLearner, learner_settings
from learner.rl_module import captioner_module_spec
from rlcap.config.algorithm import PPOConfig
from rlcap.config.cluster import ClusterConfig, placed_on
from rlcap.config.training import TrainingConfig
from rlcap.protocols import RewardClient


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Everything a PPO run is made of, its reward server apart."""

    actor: ActorPlan
    reward_client: RewardClient
    """Of the model that scores first."""
    ppo: PPOConfig
    training: TrainingConfig
    cluster: ClusterConfig
    seed: int

    @property
    def baseline(self) -> Path:
        """Where the policy starts, and what KL is measured against."""
        return self.actor.baseline


class CaptionPPOConfig(AlgorithmConfig):
    """Settings whose module and learner are the caption ones."""

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Build the captioner of the plan's baseline."""
        plan: RunPlan = self.env_config["run"]
        return captioner_module_spec(str(plan.baseline), on_gpu=plan.cluster.learner_gpus > 0)

    def get_default_learner_class(self) -> type[CaptionPPOLearner]:
        """Train by `PPOUpdate`."""
        return CaptionPPOLearner


def algorithm_config(plan: RunPlan, algo_class: type) -> AlgorithmConfig:
    """Translate a plan; whatever RLlib would do for environments is switched off."""
    cluster = plan.cluster
    return (
        CaptionPPOConfig(algo_class)
        .framework("torch")
        .environment(
            env=None,
            observation_space=STUB_SPACE,
            action_space=STUB_SPACE,
            env_config={"plan": plan.actor, "overlaps": cluster.max_staleness > 0, "run": plan},
        )
        .env_runners(
            env_runner_cls=CaptionEnvRunner,
            num_env_runners=cluster.num_actors,
            num_cpus_per_env_runner=cluster.actor_cpus,
            num_gpus_per_env_runner=cluster.actor_gpus,
            custom_resources_per_env_runner=placed_on(cluster.actor_nodes),
            create_local_env_runner=False,
            validate_env_runners_after_construction=False,  # those that come late join later
        )
        .fault_tolerance(
            restart_failed_env_runners=True,
            delay_between_env_runner_restarts_s=0,
            env_runner_health_probe_timeout_s=0.05,
        )
        .learners(
            num_learners=cluster.num_learners,
            num_cpus_per_learner=cluster.learner_cpus if cluster.num_learners else "auto",
            num_gpus_per_learner=cluster.learner_gpus,
            custom_resources_per_learner=placed_on(cluster.learner_nodes),
        )
        .training(
            learner_config_dict=learner_settings(
                plan.ppo, plan.seed, plan.training.num_updates, cluster.weights_precision
            )
        )
        .debugging(seed=plan.seed, log_level="ERROR")
        .experimental(_validate_config=False)
        .update_from_dict(
            {
                "merge_env_runner_states": False,
                "broadcast_env_runner_states": False,
                "torch_skip_nan_gradients": True,
            }
        )
    )
