"""The whole loop in real processes: tiny captioner, soundscapes, tiny reward model, caption actors that die."""

import logging
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import ray
import tiny_run
import torch
from safetensors.torch import load_file
from tiny_run import RewardHere, lay_out_run, plan_actor

from actors.audio_cursor import AudioCursor
from rlcap.algorithm.caption_ppo import CAPTIONER, build_algorithm
from rlcap.algorithm.settings import RunPlan
from rlcap.config.algorithm import PPOConfig
from rlcap.config.cluster import ClusterConfig
from rlcap.config.precision import Precision
from rlcap.config.training import TrainingConfig
from rlcap.errors import ActorLostError, CheckpointError
from rlcap.types import RewardBatch

NUM_CLIPS = 10
BATCHES_PER_UPDATE = 2
TRAINING = TrainingConfig(clips_per_batch=4, batches_per_update=BATCHES_PER_UPDATE, samples_per_clip=3)


class RewardOfMost(RewardHere):
    """One that fails on the first caption of every request."""

    def score(self, request):
        scored = super().score(request)
        failed = np.arange(len(scored.scores)) == 0
        return RewardBatch(np.where(failed, np.float32(np.nan), scored.scores), failed, ("it fell asleep",), "small")


@pytest.fixture(scope="module", autouse=True)
def _ray():
    for module in (tiny_run, sys.modules[__name__]):  # workers cannot import them
        ray.cloudpickle.register_pickle_by_value(module)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def plan(tmp_path_factory, make_captioner):
    """Return a function that plans a run; all plans share clips, baseline and reward."""
    parts = lay_out_run(tmp_path_factory.mktemp("plan"), make_captioner(seed=1), NUM_CLIPS)

    def make(*, seed=0, num_actors=2, bad=frozenset(), reward=RewardHere, **cluster):
        actor = plan_actor(parts, TRAINING.samples_per_clip, bad=bad)
        ppo = PPOConfig(learning_rate=1e-3, value_learning_rate=1e-3, minibatch_size=6, num_epochs=1)
        client = reward(parts / "reward")
        settings = ClusterConfig(num_actors=num_actors, **{"actor_cpus": 0.5, **cluster})
        return RunPlan(actor, client, ppo, TRAINING, settings, seed)

    return make


def train(algorithm, num_updates):
    """Train on; return the metrics that do not depend on the clock, and the numbers of the batches used."""
    metrics, batches = [], []
    for _ in range(num_updates):
        algorithm.train()
        report = algorithm.last_report
        metrics.append(
            {
                k: v
                for k, v in report.metrics.items()
                if not k.startswith(("time/", "actors/")) and not k.endswith(("_s", "_ms"))
            }
        )
        batches += [ray.get(batch.rollouts).rollouts for batch in report.batches]
    return metrics, batches


def weights_of(algorithm, folder):
    folder.mkdir()
    algorithm.save_checkpoint(str(folder))
    return {
        f"{file.parent.name}/{file.name}/{name}": value
        for file in sorted((folder / CAPTIONER).rglob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def assert_same_metrics(one, other):
    assert [step.keys() for step in one] == [step.keys() for step in other]
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(list(mine.values()), list(theirs.values()))


def process_ids(algorithm):
    return ray.get([actor.apply.remote(lambda _: os.getpid()) for actor in algorithm._actors().values()])


@pytest.fixture(scope="module")
def whole_run(plan, tmp_path_factory):
    """Metrics, rollouts, weights of four updates by two actors; after two of them, a checkpoint was written."""
    folder = tmp_path_factory.mktemp("whole")
    algorithm = build_algorithm(plan())
    metrics, batches = train(algorithm, 2)
    weights_of(algorithm, folder / "half")
    later_metrics, later_batches = train(algorithm, 2)
    weights = weights_of(algorithm, folder / "end")
    algorithm.stop()
    return metrics + later_metrics, batches + later_batches, weights, folder / "half"


def test_every_update_has_its_batches_and_every_epoch_its_clips(whole_run):
    _, batches, _, _ = whole_run
    assert [batch.batch_index for batch in batches] == list(range(4 * BATCHES_PER_UPDATE))
    assert [batch.policy_version for batch in batches] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(batches[0].captions) == 2 * TRAINING.samples_per_clip
    epoch = [clip_id for batch in batches[: NUM_CLIPS // 2] for clip_id in batch.clip_ids]
    assert len(set(epoch)) == NUM_CLIPS


def test_the_same_seed_gives_the_same_weights_by_one_actor_that_dies_on_the_way(plan, whole_run, tmp_path):
    metrics, _, weights, _ = whole_run
    algorithm = build_algorithm(plan(num_actors=1))
    try:
        found, _ = train(algorithm, 1)
        os.kill(process_ids(algorithm)[0], signal.SIGKILL)
        found += train(algorithm, 3)[0]
        assert algorithm.last_report.metrics["actors/lost_batches"] == 1
        assert_same_metrics(found, metrics)
        assert_same_weights(weights_of(algorithm, tmp_path / "again"), weights)
    finally:
        algorithm.stop()


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(plan, whole_run, tmp_path):
    metrics, batches, weights, checkpoint = whole_run
    algorithm = build_algorithm(plan())
    try:
        algorithm.load_checkpoint(str(checkpoint))
        assert algorithm.num_updates_done == 2
        rest, later_batches = train(algorithm, 2)
        assert_same_weights(weights_of(algorithm, tmp_path / "resumed"), weights)
    finally:
        algorithm.stop()
    assert_same_metrics(rest, metrics[2:])
    assert [batch.batch_index for batch in later_batches] == list(range(4, 8))
    for mine, theirs in zip(later_batches, batches[4:], strict=True):
        assert np.array_equal(mine.tokens, theirs.tokens)
        assert np.array_equal(mine.log_probs, theirs.log_probs)


def test_a_batch_without_a_usable_clip_is_skipped_counted_and_quarantined_and_the_run_resumes_as_it_would_have_gone_on(
    plan, tmp_path
):
    cursor = AudioCursor(NUM_CLIPS, TRAINING.clips_per_batch // BATCHES_PER_UPDATE, seed=0)
    bad = frozenset(cursor.batch(1).positions)
    algorithm = build_algorithm(plan(bad=bad))
    try:
        _, batches = train(algorithm, 1)
        report = algorithm.last_report
        weights_of(algorithm, tmp_path / "first")
        batches += train(algorithm, 2)[1]
        weights = weights_of(algorithm, tmp_path / "whole")
    finally:
        algorithm.stop()
    assert [batch.batch_index for batch in batches[:4]] == [0, 2, 3, 4]
    assert report.metrics["actors/skipped_batches"] == 1
    assert {item.path for item in report.quarantined} == {f"{position}.wav" for position in bad}
    algorithm = build_algorithm(plan(bad=bad, num_actors=1))
    try:
        algorithm.load_checkpoint(str(tmp_path / "first"))
        later = train(algorithm, 2)[1]
        assert_same_weights(weights_of(algorithm, tmp_path / "resumed"), weights)
    finally:
        algorithm.stop()
    assert [batch.batch_index for batch in later] == [batch.batch_index for batch in batches[2:]]


def test_captions_without_a_score_are_left_out_and_the_reason_comes_to_the_driver(plan):
    algorithm = build_algorithm(plan(reward=RewardOfMost))
    try:
        algorithm.train()
        report = algorithm.last_report
        assert report.failure_reasons == ("it fell asleep",)
        assert report.metrics["rollout/failed"] == BATCHES_PER_UPDATE
    finally:
        algorithm.stop()


def test_another_seed_is_another_run_and_takes_no_checkpoint_of_another_stream(plan, whole_run, tmp_path):
    metrics, _, _, checkpoint = whole_run
    algorithm = build_algorithm(plan(num_actors=1, seed=1))
    try:
        assert train(algorithm, 1)[0] != metrics[:1]
        with pytest.raises(CheckpointError, match="seed was 0 and is now 1"):
            algorithm.load_checkpoint(str(checkpoint))
        (tmp_path / "state.json").write_text("{")
        with pytest.raises(CheckpointError, match="is no checkpoint of a run"):
            algorithm.load_checkpoint(str(tmp_path))
    finally:
        algorithm.stop()


def test_overlapped_rollouts_are_never_too_stale_and_actors_that_die_lose_no_batch(plan):
    algorithm = build_algorithm(plan(max_staleness=1))
    try:
        _, batches = train(algorithm, 2)
        for number in process_ids(algorithm)[:1]:
            os.kill(number, signal.SIGKILL)
        batches += train(algorithm, 2)[1]
        ray.kill(list(algorithm._actors().values())[1], no_restart=False)
        batches += train(algorithm, 3)[1]
        lost = algorithm.last_report.metrics["actors/lost_batches"]
    finally:
        algorithm.stop()
    assert [batch.batch_index for batch in batches] == list(range(7 * BATCHES_PER_UPDATE))
    staleness = [batch.batch_index // BATCHES_PER_UPDATE - batch.policy_version for batch in batches]
    assert set(staleness) == {0, 1}
    assert lost > 0


def test_actors_that_join_and_leave_on_the_way_change_no_bit(plan, whole_run, tmp_path):
    metrics, _, weights, _ = whole_run
    algorithm = build_algorithm(plan(num_actors=1))
    try:
        joined = algorithm.scale_actors(add=1)
        found, _ = train(algorithm, 1)
        assert joined.result(timeout=0).num_present + joined.result(timeout=0).num_away == 2
        ray.get([actor.ping.remote() for actor in algorithm._actors().values()], timeout=60)
        found += train(algorithm, 1)[0]
        assert algorithm.last_report.metrics["actors/present"] == 2
        left = algorithm.scale_actors(remove=1)
        too_many = algorithm.scale_actors(remove=1)
        found += train(algorithm, 2)[0]
        assert left.result(timeout=0).num_present == len(algorithm._actors()) == 1
        assert "cannot do without the last" in str(too_many.exception(timeout=0))
        assert_same_metrics(found, metrics)
        assert_same_weights(weights_of(algorithm, tmp_path / "scaled"), weights)
    finally:
        algorithm.stop()


def test_a_stopped_actor_is_named_with_its_batch_once_nothing_moves(plan, caplog):
    algorithm = build_algorithm(plan(num_actors=1, stall_s=1.0))
    try:
        (stopped,) = process_ids(algorithm)
        os.kill(stopped, signal.SIGSTOP)
        go_on = threading.Thread(target=_continue_once, args=(stopped, lambda: "everybody stands" in caplog.text))
        go_on.start()
        with caplog.at_level(logging.WARNING):
            train(algorithm, 1)
        go_on.join()
    finally:
        algorithm.stop()
    assert "caption actor 1 was asked for batch 0" in caplog.text
    assert f"caption actor 1 (process {stopped}" in caplog.text
    assert "stopped by a signal" in caplog.text
    assert "in collect" in caplog.text, "the driver's own stack"


def _continue_once(process_id, told):
    deadline = time.monotonic() + 60
    while not told() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process_id, signal.SIGCONT)


def test_weights_are_metrics_and_rounded_ones_are_half_as_many_bytes(plan, whole_run):
    in_full = whole_run[0][0]["weights/num_bytes"]
    algorithm = build_algorithm(plan(num_actors=1, weights_precision=Precision.bfloat16))
    try:
        train(algorithm, 2)
        metrics = algorithm.last_report.metrics
    finally:
        algorithm.stop()
    assert metrics["weights/num_bytes"] == pytest.approx(in_full / 2, rel=0.01)
    assert metrics["weights/publish_ms"] > 0
    assert metrics["weights/put_ms"] > 0
    assert metrics["weights/load_ms"] > 0
    assert metrics["time/audio_wait_s"] >= 0


def test_a_run_begins_with_the_actors_that_have_room_and_without_any_it_says_what_they_ask_for(plan):
    algorithm = build_algorithm(plan(num_actors=2, actor_cpus=3))
    try:
        train(algorithm, 1)
        assert algorithm.last_report.metrics["actors/present"] == 1
        assert algorithm.scale_actors(remove=1)
        train(algorithm, 1)
        assert len(algorithm._actors()) == len(algorithm._pipeline.present) == 1, "the one that was away has left"
    finally:
        algorithm.stop()
    with pytest.raises(ActorLostError, match=r"no caption actor started within 1 s: each of 1 asks for 8 CPUs"):
        build_algorithm(plan(num_actors=1, actor_cpus=8, start_timeout_s=1))
