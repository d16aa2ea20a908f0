"""Search settings of PPO with Ray Tune: every trial is one `rlcap train`, judged by its win rate over the baseline.

    python examples/tune.py experiment=quickstart training.num_updates=100

Takes the settings of `rlcap train`. Stages before PPO are made once, by the first trial, and kept in the cache. A trial
starts a Ray of its own on the machine that Tune places it on, so it needs no more of the cluster than `CPUS_A_TRIAL`.
What is searched stands below: edit it. Prints the best settings as they go on the command line of `rlcap train`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ray
from ray import tune

from rlcap.stop_signals import SUPERVISOR_PIPE, supervisor_pipe

RUNS = Path("runs/tune")
NUM_TRIALS = int(os.environ.get("NUM_TRIALS", "6"))
CPUS_A_TRIAL = 2
SPACE = {
    "algorithm.kl_coef": tune.loguniform(0.05, 0.5),
    "algorithm.learning_rate": tune.loguniform(1e-4, 1e-3),
    "algorithm.entropy_coef": tune.uniform(0.0, 0.06),
}
"""Settings, and where they are looked for."""
QUICK = ("training.controls=false", "training.supervised=false", "tracking.tensorboard=false")
"""A trial does without what a report compares with."""


def run_trial(settings: dict[str, float], given: tuple[str, ...], home: str) -> dict[str, float]:
    """Run PPO with one choice of settings; what it wins, and how far it drifts, is what the trial reports."""
    run = Path(home) / RUNS / tune.get_context().get_trial_name()
    chosen = [f"{name}={value}" for name, value in settings.items()]
    command = [Path(sys.executable).with_name("rlcap"), "train", *given, *QUICK, *chosen, f"run_dir={run}"]
    with run.with_name(f"{run.name}.log").open("w") as log, supervisor_pipe() as pipe:
        # The trial's own Ray must not take itself for part of this one. It ends with Tune, however that does.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment[SUPERVISOR_PIPE] = str(pipe)
        streams = {"stdout": log, "stderr": subprocess.STDOUT}
        subprocess.run(command, cwd=home, env=environment, pass_fds=[pipe], check=True, **streams)
    summary = json.loads((run / "summary.json").read_text())
    return {"win_rate": summary["win_rate"], "kl": summary["mean_kl"]}


def main(given: list[str]) -> None:
    """Search, and say what was best."""
    home = Path.cwd()
    (home / RUNS).mkdir(parents=True, exist_ok=True)
    ray.init(address=os.environ.get("RAY_ADDRESS", "local"), include_dashboard=False)
    trainable = tune.with_parameters(run_trial, given=tuple(given), home=str(home))
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": CPUS_A_TRIAL}),
        param_space=SPACE,
        tune_config=tune.TuneConfig(metric="win_rate", mode="max", num_samples=NUM_TRIALS),
        run_config=tune.RunConfig(name="search", storage_path=str(home / RUNS)),
    )
    best = tuner.fit().get_best_result()
    words = " ".join(f"{name}={value:.3g}" for name, value in best.config.items())
    sys.stdout.write(f"win rate {best.metrics['win_rate']:.3f}, KL {best.metrics['kl']:.1f}: rlcap train {words}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
