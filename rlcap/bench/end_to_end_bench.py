"""How fast a whole run goes round, beside a tight loop over the same models in one process, in turns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from reward_server.group import RewardServer
from rlcap.algorithm.caption_ppo import CaptionPPO, build_algorithm
from rlcap.algorithm.ray_session import ray_session, without_advice
from rlcap.algorithm.settings import RunPlan
from rlcap.bench.bottleneck import find_bottleneck
from rlcap.bench.hardware import Hardware, describe_hardware
from rlcap.bench.run_parts import EPOCH_UPDATES, RunParts, lay_out_parts
from rlcap.bench.tight_loop import TightLoop, TightRound
from rlcap.config.run import RunConfig
from rlcap.errors import ConfigError
from rlcap.pipeline.progress import progress_bar
from rlcap.threads import limited_threads


@dataclass(frozen=True, slots=True)
class RunRound:
    """What some updates of a real run came to."""

    captions_per_s: float
    audio_s_per_s: float
    tokens_per_s: float
    reward_queries_per_s: float
    learner_idle: float
    """Share of the time in which the learner waited for rollouts."""
    actor_idle: float
    """Share of the actors' time in which they had no batch to caption."""
    cores_busy: float
    """Share of this machine's cores that computed, for whomever."""
    staleness: float
    max_staleness_seen: float


@dataclass(frozen=True, slots=True)
class RunSpeed(RunRound):
    """One setting of the sweep; medians of the rounds, and of the tight loop in turns with them."""

    num_actors: int
    max_staleness: int
    threads_per_process: int
    tight_captions_per_s: float
    share_of_tight_loop: float
    """Captions a second over those of the tight loop, which may use all cores."""
    tight_reward_share: float
    """Of the tight loop's time, that of the reward model."""
    tight_update_share: float
    bottleneck: str
    """What holds the run up, and the setting to change."""


@dataclass(frozen=True, slots=True)
class EndToEndBench:
    """All figures."""

    hardware: Hardware
    num_rounds: int
    captions_per_update: int
    threads_of_tight_loop: int
    speeds: tuple[RunSpeed, ...]

    def as_json(self) -> dict[str, object]:
        """Plain values; `share_of_tight_loop` is that of the first setting."""
        return {**asdict(self), "share_of_tight_loop": self.speeds[0].share_of_tight_loop}


def bench_end_to_end(
    config: RunConfig,
    actor_counts: Sequence[int],
    staleness_bounds: Sequence[int],
    *,
    num_rounds: int,
    num_updates: int,
    num_threads: int,
) -> EndToEndBench:
    """Run every number of actors under every bound on staleness, each in turns with a tight loop.

    Args:
        config: of models and updates; the parts are random where it names no checkpoints.
        actor_counts: each must divide the clips of an update.
        staleness_bounds: 0 is the synchronous mode.
        num_rounds: of tight loop and run in turns, for each setting.
        num_updates: in one round.
        num_threads: of the tight loop. Processes of a run that compute at the same time share them.

    Raises:
        ConfigError: a number is out of its range.
    """
    _check(config, actor_counts, staleness_bounds, (num_rounds, num_updates, num_threads))
    settings = [(count, bound) for bound in staleness_bounds for count in actor_counts]
    speeds = []
    with (
        tempfile.TemporaryDirectory(prefix="rlcap-bench-") as directory,
        progress_bar("tight loop, whole run", len(settings) * num_rounds) as advance,
    ):
        parts = lay_out_parts(config, Path(directory))
        for count, bound in settings:
            # Without overlap the learner waits for the actors.
            threads = max(1, num_threads // (count + (bound > 0)))
            mine = parts.with_processes(count, bound, threads)
            rounds = []
            for pair in _rounds(mine, num_rounds, num_updates, num_threads):
                rounds.append(pair)
                advance(f"{pair[1].captions_per_s / pair[0].captions_per_s:.0%} of the tight loop")
            speeds.append(_speed(rounds, count, bound, threads))
    captions_per_update = config.training.clips_per_batch * config.training.samples_per_clip
    return EndToEndBench(describe_hardware(), num_rounds, captions_per_update, num_threads, tuple(speeds))


def _check(
    config: RunConfig, actor_counts: Sequence[int], staleness_bounds: Sequence[int], numbers: Sequence[int]
) -> None:
    if min(*actor_counts, *numbers) < 1 or min(staleness_bounds) < 0:
        raise ConfigError(
            "--actors, --rounds, --updates and --threads must be above 0, and --staleness 0 or more, got "
            f"{list(actor_counts)}, {', '.join(map(str, numbers))} and {list(staleness_bounds)}"
        )
    num_clips = config.training.clips_per_batch
    uneven = [count for count in actor_counts if num_clips % count]
    if uneven:
        raise ConfigError(
            f"--actors must divide training.clips_per_batch ({num_clips}), so that all have the same to do, "
            f"got {uneven[0]}"
        )


def _rounds(
    parts: RunParts, num_rounds: int, num_updates: int, num_threads: int
) -> Iterator[tuple[TightRound, RunRound]]:
    """Take turns; the first turn of each warms up and is not counted."""
    tight = TightLoop(parts, num_threads)
    # The learner lives in this process, and the tight loop sets its own number of threads.
    with _real_run(parts) as algorithm, limited_threads(max(1, int(parts.config.cluster.actor_cpus))):
        for number in range(num_rounds + 1):
            updates = num_updates if number else max(num_updates, EPOCH_UPDATES)
            _let_actors_finish(algorithm)
            tight_round = tight.run(updates)
            found = _run_round(algorithm, parts, updates)
            if number:
                yield tight_round, found


@contextmanager
def _real_run(parts: RunParts) -> Iterator[CaptionPPO]:
    """A run of the real pipeline: reward server, actors and learner."""
    config = parts.config
    with ray_session(config.cluster, config.reward.num_shards):
        with without_advice():
            server = RewardServer.start(parts.reward, config.reward, config.cluster)
            plan = RunPlan(
                parts.actor_plan(),
                server.client(),
                config.algorithm,
                config.training,
                config.cluster,
                config.seed,
            )
            algorithm = build_algorithm(plan)
        try:
            yield algorithm
        finally:
            algorithm.stop()
            server.stop()


def _let_actors_finish(algorithm: CaptionPPO) -> None:
    """Wait until actors have answered what they were asked for ahead: the tight loop's turn is its own."""
    algorithm.env_runner_group.foreach_env_runner(lambda actor: actor.assert_healthy(), local_env_runner=False)


def _run_round(algorithm: CaptionPPO, parts: RunParts, num_updates: int) -> RunRound:
    bound = parts.config.cluster.max_staleness
    for _ in range(bound + 1):
        algorithm.train()  # uses up what actors made while nobody looked at the clock
    batches, waited_s, num_tokens = [], 0.0, 0.0
    psutil.cpu_percent()
    begun = time.perf_counter()
    for _ in range(num_updates):
        algorithm.train()
        report = algorithm.last_report
        waited_s += report.metrics["time/wait_for_rollouts_s"]
        num_tokens += report.metrics["rollout/caption_length"] * sum(b.info.num_captions for b in report.batches)
        batches += [(report.update - 1 - batch.info.policy_version, batch.info) for batch in report.batches]
    wall_s = time.perf_counter() - begun
    infos = [info for _, info in batches]
    num_captions = sum(info.num_captions for info in infos)
    staleness = [float(lag) for lag, _ in batches]
    greedy = len(infos) * parts.config.training.clips_per_batch if parts.actor_plan().with_greedy else 0
    return RunRound(
        captions_per_s=num_captions / wall_s,
        audio_s_per_s=sum(info.audio_s for info in infos) / wall_s,
        tokens_per_s=num_tokens / wall_s,
        reward_queries_per_s=(num_captions + greedy) / wall_s,
        learner_idle=waited_s / wall_s,
        actor_idle=max(0.0, 1 - sum(info.wall_s for info in infos) / (wall_s * parts.config.cluster.num_actors)),
        cores_busy=psutil.cpu_percent() / 100,
        staleness=float(np.mean(staleness)),
        max_staleness_seen=max(staleness),
    )


def _speed(rounds: Sequence[tuple[TightRound, RunRound]], num_actors: int, bound: int, threads: int) -> RunSpeed:
    tight = [asdict(pair[0]) for pair in rounds]
    run = [asdict(pair[1]) for pair in rounds]
    medians = {name: float(np.median([one[name] for one in run])) for name in run[0]}
    reward_share, update_share = (
        float(np.median([one[name] for one in tight])) for name in ("reward_share", "update_share")
    )
    return RunSpeed(
        num_actors=num_actors,
        max_staleness=bound,
        threads_per_process=threads,
        tight_captions_per_s=float(np.median([one["captions_per_s"] for one in tight])),
        share_of_tight_loop=float(np.median([pair[1].captions_per_s / pair[0].captions_per_s for pair in rounds])),
        **medians,
        tight_reward_share=reward_share,
        tight_update_share=update_share,
        bottleneck=find_bottleneck(
            max_staleness=bound,
            learner_idle=medians["learner_idle"],
            actor_idle=medians["actor_idle"],
            cores_busy=medians["cores_busy"],
            reward_share=reward_share / max(1e-9, 1 - update_share),
        ),
    )
