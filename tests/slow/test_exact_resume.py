"""A run that is cut anywhere and goes on is the uninterrupted one, bit for bit, by any number of actors."""

import os

import numpy as np
import pytest
import ray
import tiny_run
import torch
from tiny_run import RewardHere, lay_out_run, plan_actor

from actors.audio_cursor import AudioCursor
from rlcap.algorithm.caption_ppo import LEARNER, build_algorithm
from rlcap.algorithm.settings import RunPlan
from rlcap.config.algorithm import LearningRateSchedule, PPOConfig
from rlcap.config.cluster import ClusterConfig
from rlcap.config.training import TrainingConfig

NUM_CLIPS = 10
NUM_UPDATES = int(os.environ.get("RLCAP_UPDATES_TO_CUT", "12"))
"""More of them make a longer trial."""
NUM_CUTS = 10
TRAINING = TrainingConfig(clips_per_batch=4, batches_per_update=2, samples_per_clip=2, num_updates=NUM_UPDATES)
BAD = frozenset(AudioCursor(NUM_CLIPS, 2, seed=0).batch(1).positions)
"""Clips that cannot be used: all of one batch, and so parts of others in the epochs behind it."""


@pytest.fixture(scope="module", autouse=True)
def _ray():
    ray.cloudpickle.register_pickle_by_value(tiny_run)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def build(tmp_path_factory, make_captioner):
    """Return a function that starts a run with a number of actors; all runs share clips, baseline and reward."""
    parts = lay_out_run(tmp_path_factory.mktemp("plan"), make_captioner(seed=1), NUM_CLIPS)
    ppo = PPOConfig(
        learning_rate=1e-3,
        value_learning_rate=1e-3,
        minibatch_size=4,
        kl_target=0.1,  # steers the price of KL, by what it remembers
        learning_rate_schedule=LearningRateSchedule.cosine,
    )

    def make(num_actors):
        actor = plan_actor(parts, TRAINING.samples_per_clip, bad=BAD)
        cluster = ClusterConfig(num_actors=num_actors, actor_cpus=0.5)
        return build_algorithm(RunPlan(actor, RewardHere(parts / "reward"), ppo, TRAINING, cluster, seed=0))

    return make


def without_clock(metrics):
    by_chance = ("time/", "actors/present", "actors/doubled_batches")
    return {k: v for k, v in metrics.items() if not k.startswith(by_chance) and not k.endswith(("_s", "_ms"))}


def contents(folder):
    """Every file of a checkpoint by its name, as bytes: the learner's is a pickle in a zip, and compared by value."""
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    del files[f"{LEARNER}/learner.pt"]
    return files


def assert_same_state(one, other):
    """Compare weights, optimiser, counters, statistics and ledger."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same_state(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same_state(mine, theirs)
    else:
        assert one == other


def learner_state(folder):
    return torch.load(folder / LEARNER / "learner.pt", weights_only=True)


def test_a_run_that_is_cut_anywhere_goes_on_bit_for_bit_by_any_number_of_actors(build, tmp_path):
    whole, metrics, used = build(num_actors=2), [], []
    snapshots = {}
    for update in range(1, NUM_UPDATES + 1):
        whole.train()
        metrics.append(without_clock(whole.last_report.metrics))
        used += [batch.batch_index for batch in whole.last_report.used]
        used += [batch.batch_index for batch in whole.last_report.skipped]
        snapshots[update] = whole.snapshot()  # written when the run has long gone on
    whole.save_checkpoint(str(tmp_path / "end"))
    whole.stop()
    assert sorted(used) == list(range(len(used)))
    assert metrics[-1]["actors/skipped_batches"] > 0

    cuts = np.random.default_rng(0).choice(np.arange(1, NUM_UPDATES), NUM_CUTS, replace=NUM_UPDATES <= NUM_CUTS)
    for num_actors, half in zip((1, 3), np.array_split(cuts, 2), strict=True):
        resumed = build(num_actors)
        for cut in map(int, half):
            if not (tmp_path / f"cut-{cut}").exists():
                snapshots[cut](tmp_path / f"cut-{cut}")
            resumed.load_checkpoint(str(tmp_path / f"cut-{cut}"))
            assert resumed.num_updates_done == cut
            for expected in metrics[cut:]:
                resumed.train()
                assert without_clock(resumed.last_report.metrics) == expected
            folder = tmp_path / f"{num_actors}-actors-from-{cut}"
            resumed.save_checkpoint(str(folder))
            assert contents(folder) == contents(tmp_path / "end")
            assert_same_state(learner_state(folder), learner_state(tmp_path / "end"))
        resumed.stop()
