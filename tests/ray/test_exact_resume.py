"""A run that is cut anywhere and goes on is the uninterrupted one, bit for bit, by any number of actors."""

import os
import sys

import numpy as np
import pytest
import ray
import torch

from actors.audio_cursor import AudioCursor
from actors.env_runner import ActorPlan
from reward_server.heads import MlpHead
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from rlcap.algorithm.caption_ppo import LEARNER, build_algorithm
from rlcap.algorithm.settings import RunPlan
from rlcap.audio.arrow_store import ClipStore, write_clip_store
from rlcap.audio.features import LogMelConfig
from rlcap.config.algorithm import LearningRateSchedule, PPOConfig
from rlcap.config.captioner import SamplingConfig
from rlcap.config.cluster import ClusterConfig
from rlcap.config.reward import ClapConfig
from rlcap.config.training import TrainingConfig
from rlcap.soundscapes.world import render
from rlcap.types import Quarantined, RewardBatch

NUM_CLIPS = 10
NUM_UPDATES = int(os.environ.get("RLCAP_UPDATES_TO_CUT", "12"))
"""More of them make a longer trial."""
NUM_CUTS = 10
TRAINING = TrainingConfig(clips_per_batch=4, batches_per_update=2, samples_per_clip=2, num_updates=NUM_UPDATES)
BAD = frozenset(AudioCursor(NUM_CLIPS, 2, seed=0).batch(1).positions)
"""Clips that cannot be used: all of one batch, and so parts of others in the epochs behind it."""


class RewardHere:
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

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return len(self._source)

    def read(self, positions):
        clips, _ = self._source.read([position for position in positions if position not in BAD])
        return clips, [Quarantined(f"{position}.wav", "silent") for position in positions if position in BAD]


@pytest.fixture(scope="module", autouse=True)
def _ray():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def build(tmp_path_factory, make_captioner):
    """Return a function that starts a run with a number of actors; all runs share clips, baseline and reward."""
    tmp_path = tmp_path_factory.mktemp("plan")
    write_clip_store(tmp_path / "clips.arrow", ((render(0, index)[0], "{}") for index in range(NUM_CLIPS)))
    make_captioner(seed=1).save(tmp_path / "baseline")
    config = ClapConfig(embedding_dim=16, audio_channels=[4, 4, 4, 4], num_segments=2, text_width=16, num_heads=2)
    torch.manual_seed(0)
    clap = SmallClap.for_captions(config, ["a dog barks", "then rain falls"], LogMelConfig(), seed=0)
    ClapReward(clap, MlpHead(16, [8, 4])).save(tmp_path / "reward")
    ppo = PPOConfig(
        learning_rate=1e-3,
        value_learning_rate=1e-3,
        minibatch_size=4,
        kl_target=0.1,  # steers the price of KL, by what it remembers
        learning_rate_schedule=LearningRateSchedule.cosine,
    )

    def make(num_actors):
        actor = ActorPlan(
            source=WithoutSome(ClipStore(tmp_path / "clips.arrow")),
            baseline=tmp_path / "baseline",
            sampling=SamplingConfig(max_new_tokens=8),
            samples_per_clip=TRAINING.samples_per_clip,
            num_threads=1,
        )
        cluster = ClusterConfig(num_actors=num_actors, actor_cpus=0.5)
        return build_algorithm(RunPlan(actor, RewardHere(tmp_path / "reward"), ppo, TRAINING, cluster, seed=0))

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
