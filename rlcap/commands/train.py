"""`rlcap quickstart` and `rlcap train`: the whole job."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlcap.commands.cluster_job import is_for_a_cluster, run_on_cluster
from rlcap.commands.parsing import Commands, add_command, add_overrides
from rlcap.commands.terminal import say

if TYPE_CHECKING:
    from rlcap.config.run import RunConfig

_WRITES = """\
writes, below run_dir, or else runs/<experiment>-<time> (`latest` beside it points at it):
  report.html       the result, for the browser: key figures, curves, held-out clips to listen to
  summary.json      the key figures
  metrics.parquet   one row an update (tensorboard/ holds the same)
  captioners/       every captioner of the comparison
  checkpoints/      to continue from, and to caption with
  quarantine.csv    files that could not be used, and why
Stage results are kept in runs/cache, and used again where nothing they depend on has changed."""

_QUICKSTART_DETAILS = f"""\
Run the whole job on synthetic sounds: train a small captioner and a small CLAP, simulate annotators, fit the reward
model, tune the captioner by PPO, evaluate it on held-out clips, and write a report. Needs no data and no GPU.

{_WRITES}"""

_QUICKSTART_MORE = """\
examples:
  rlcap quickstart
  rlcap quickstart seed=1 training.num_updates=120
  rlcap quickstart algorithm=grpo
  rlcap quickstart resume=true                   continue the latest run where it stopped
  rlcap quickstart --supervise                   go on by itself after a crash

settings most often changed:
  seed=0                          same seed, same result
  training.num_updates=<number>   how long PPO goes on
  training.controls=false         leave out the runs that show what hearing adds: saves time
  algorithm=ppo|rloo|grpo|scst    where the baseline of the advantages comes from
  cluster.num_actors=2            processes that caption clips"""

_TRAIN_DETAILS = f"""\
Run the whole job of an experiment: baseline, CLAP, preferences, reward model, PPO, evaluation, report.

reads:
  the clips of data.root (or the synthetic world), and what captioner.checkpoint, reward.checkpoint and
  reward.preferences name; experiment=esc10 reads data.root/manifest.csv with the columns path, label and fold

{_WRITES}"""

_TRAIN_MORE = """\
examples:
  rlcap train experiment=esc10 data.root=recordings
  rlcap train experiment=esc10 data.root=recordings algorithm.kl_coef=0.1 run_dir=runs/kl-0.1
  rlcap train resume=true                        continue the latest run where it stopped
  rlcap train resume=true run_dir=runs/kl-0.1 training.num_updates=200
  rlcap train cluster=job run_dir=/shared/runs/a cache_dir=/shared/cache
                                                 hand the run to a Ray cluster, and follow it; Ctrl-C ends the following
  rlcap train --supervise experiment=esc10 data.root=recordings     for days: go on by itself after a crash

settings most often changed:
  experiment=quickstart|esc10     a file of configs/experiment: where everything starts from
  data.kind, data.root            which recordings, in which layout
  captioner.checkpoint            the captioner to tune; empty: train a small one first
  reward.checkpoint               the reward model; empty: fit one first
  reward.preferences              preference pairs of people to fit it on; empty: simulate annotators
  algorithm.kl_coef               how dearly it costs to leave the baseline
  training.keep_last, keep_best   how many checkpoints stay
  training.checkpoint_dir         where they are copied to: s3://..., gs://..., file:///...
  cluster=local|ray|job           this machine, the Ray cluster that it is part of, or one elsewhere, by Ray Jobs
  cluster.job_address             where that one's dashboard answers
  tracking.wandb, tracking.mlflow also log there; tracking.prometheus=true offers the metrics by Ray's exporter
  profile=true                    write timeline.json, which ui.perfetto.dev shows: who did what when"""


def register(commands: Commands) -> None:
    """Add both commands."""
    quickstart = add_command(
        commands,
        "quickstart",
        _run,
        summary="the whole job on synthetic sounds: start here",
        details=_QUICKSTART_DETAILS,
        more=_QUICKSTART_MORE,
    )
    add_overrides(quickstart)
    _add_supervise(quickstart)
    train = add_command(
        commands,
        "train",
        _run,
        summary="the whole job of an experiment",
        details=_TRAIN_DETAILS,
        more=_TRAIN_MORE,
    )
    add_overrides(train)
    _add_supervise(train)


def _add_supervise(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--supervise",
        action="store_true",
        help="run the job in a process of its own, and resume it from its last checkpoint when that dies "
        "(cluster.max_restarts times without a new checkpoint)",
    )


def _run(arguments: argparse.Namespace) -> int:
    if is_for_a_cluster(arguments.overrides):
        return run_on_cluster(arguments.overrides, supervise=arguments.supervise)
    config = settle_config(arguments.overrides)
    if arguments.supervise:
        from rlcap.commands.supervision import supervise

        return supervise(config, arguments.overrides)
    # Slow to import: faults in the settings come first.
    from rlcap.pipeline import main_job

    try:
        run = main_job.run(config)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(_where_to_continue(config.run_dir)) from interrupt
    say(f"Done. The report is {run / 'report.html'}")
    return 0


def settle_config(overrides: Sequence[str]) -> RunConfig:
    """Load the settings of a run, with absolute paths; a resumed run's come from its folder, which `run_dir` is.

    Raises:
        ConfigError: the settings have faults, or a resumed run cannot take them over.
    """
    from rlcap.config.load import load_config, read_config
    from rlcap.config.paths import make_absolute
    from rlcap.config.resume import refuse_changes
    from rlcap.run_directory import find_run_directory

    wanted = load_config([text for text in overrides if text.partition("=")[0] in ("resume", "run_dir")])
    if not wanted.resume:
        config = load_config(overrides)
        make_absolute(config)
        return config
    run = find_run_directory(wanted.run_dir)
    began, config = read_config(run.config), read_config(run.config, overrides)
    for each in (began, config):
        make_absolute(each)
    refuse_changes(began_with=began, goes_on_with=config)
    config.run_dir = str(run.path.absolute())
    return config


def _where_to_continue(run_dir: str) -> str:
    from rlcap.checkpoint import latest_good
    from rlcap.run_directory import RunDirectory

    if not (run_dir and Path(run_dir).exists()):
        return "stopped before the run began; finished stages are kept: give the same command again"
    again = f"rlcap train resume=true run_dir={run_dir}"
    checkpoint = latest_good(RunDirectory(Path(run_dir)).checkpoints)
    if checkpoint is None:
        return f"stopped before the first checkpoint; finished stages are kept: continue with `{again}`"
    return f"stopped; the last checkpoint is {checkpoint}: continue with `{again}`"
