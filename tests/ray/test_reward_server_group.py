"""Real shards in real processes: routing, death and return, failures that stay failures, and the swap."""

import os
import signal
import sys
import time

import numpy as np
import pytest
import ray
import torch

from reward_server.client import ShardedRewardClient
from reward_server.group import RewardServer
from reward_server.heads import CosineHead, MlpHead
from reward_server.routing import owner
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from rlcap.audio.features import LogMelConfig
from rlcap.config.cluster import ClusterConfig
from rlcap.config.reward import ClapConfig, RewardConfig
from rlcap.errors import RewardError
from rlcap.types import Clip, RewardRequest

# Workers cannot import this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

WORDS = ["a dog barks", "a cat meows", "rain falls", "broken"]
SHARDS = ["shard-0", "shard-1"]
CLUSTER = ClusterConfig(shard_cpus=0)


@pytest.fixture(scope="module", autouse=True)
def _ray():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


def reward(seed=0, *, breaks_on="", head=None):
    """A tiny reward model; the word `breaks_on` turns its score into NaN."""
    config = ClapConfig(embedding_dim=16, audio_channels=[4, 4, 4, 4], num_segments=2, text_width=16, num_heads=2)
    clap = SmallClap.for_captions(config, WORDS, LogMelConfig(), seed=seed)
    if breaks_on:
        with torch.no_grad():
            clap.text_tower.tokens.weight[clap.tokenizer.convert_tokens_to_ids(breaks_on)] = torch.nan
    torch.manual_seed(seed)
    return ClapReward(clap, head or MlpHead(16, [8, 4]))


def request(num_clips=6):
    rng = np.random.default_rng(0)
    clips = [Clip(f"clip-{i}", rng.standard_normal(4000 + i).astype(np.float32) / 9, 16_000) for i in range(num_clips)]
    captions = tuple(WORDS[row % 3] for row in range(3 * num_clips))
    return RewardRequest(tuple(clips), captions, np.arange(3 * num_clips) // 3)


LIVE = reward(breaks_on="broken")


def score_here(model, asked):
    return model.score(model.embed_audio(asked.clips), asked.captions, asked.clip_index)


@pytest.fixture(scope="module")
def server():
    """Two shards; each test leaves LIVE live."""
    started = RewardServer(LIVE, RewardConfig(num_shards=2), CLUSTER)
    started.wait_until_ready(timeout_s=120)
    yield started
    started.stop()


@ray.remote(num_cpus=0)
def score_elsewhere(client, asked):
    return client.score(asked)


def test_shards_score_like_the_model_itself_and_hear_each_clip_once(server):
    asked, client = request(), server.client()
    first, again = client.score(asked), client.score(asked)
    elsewhere = ray.get(score_elsewhere.remote(client, asked), timeout=120)
    np.testing.assert_allclose(first.scores, score_here(LIVE, asked), rtol=1e-4, atol=1e-5)
    assert np.array_equal(first.scores, again.scores)
    assert np.array_equal(first.scores, elsewhere.scores)
    assert not first.failed.any()
    assert first.reward_version == LIVE.version
    counts = [shard.cache for shard in server.statistics()]
    assert (sum(count.num_misses for count in counts), sum(count.num_hits for count in counts)) == (6, 12)


def test_a_broken_score_is_marked_and_never_a_number(server):
    asked = request()
    captions = ("broken", *asked.captions[1:])
    batch = server.client().score(RewardRequest(asked.clips, captions, asked.clip_index))
    assert batch.failed.tolist() == [True] + [False] * 17
    assert np.isnan(batch.scores[0])
    assert np.isfinite(batch.scores[1:]).all()
    (reason,) = batch.failure_reasons
    assert reason.startswith(owner("clip-0", SHARDS))
    assert "not finite" in reason


def test_the_control_scores_against_other_clips(server):
    asked, control = request(), server.client(hear_other_clips=True)
    batch = control.score(asked)
    assert batch.reward_version != LIVE.version
    assert not np.isclose(batch.scores, score_here(LIVE, asked), rtol=0, atol=1e-7).all()
    one_clip = RewardRequest(asked.clips[:1], asked.captions[:3], asked.clip_index[:3])
    assert control.score(one_clip).failed.all()


def test_a_shard_that_stays_silent_fails_its_scores_in_time_and_is_named(server):
    asked = request()
    client = ShardedRewardClient(server.shards, server._live, timeout_s=3.0)
    silent = server.statistics()[1].process_id
    os.kill(silent, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        batch = client.score(asked)
        assert time.monotonic() - begun < 20
    finally:
        os.kill(silent, signal.SIGCONT)
    assert batch.failed.tolist() == [owner(f"clip-{clip}", SHARDS) == "shard-1" for clip in asked.clip_index]
    assert batch.failure_reasons == ("shard-1 did not answer within 3 s",)


def test_a_swap_is_staged_committed_and_rolled_back(server):
    new, asked, client = reward(head=CosineHead()), request(), server.client()
    misses = sum(shard.cache.num_misses for shard in server.statistics())
    report = server.stage(new, asked)
    assert (report.live_version, report.candidate_version) == (LIVE.version, new.version)
    assert client.score(asked).reward_version == LIVE.version
    server.commit()
    assert client.score(asked).reward_version == new.version
    # A head over the same encoder hears nothing anew.
    assert sum(shard.cache.num_misses for shard in server.statistics()) == misses
    server.rollback()
    back = client.score(asked)
    assert back.reward_version == LIVE.version
    np.testing.assert_allclose(back.scores, score_here(LIVE, asked), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("word", "fault"), [("dog", "of its 18 scores are not finite"), ("[CLS]", "18 of its 18 scores are not finite")]
)
def test_a_broken_candidate_is_refused_and_the_live_model_stays(server, word, fault):
    asked = request()
    with pytest.raises(RewardError, match=f"refused and {LIVE.version} stays live.*{fault}"):
        server.stage(reward(seed=1, breaks_on=word), asked)
    with pytest.raises(RewardError, match="no reward model is staged"):
        server.commit()
    assert server.client().score(asked).reward_version == LIVE.version


def test_a_client_that_missed_a_swap_still_gets_one_version(server):
    new, asked, late = reward(seed=1), request(), server.client()
    server.stage(new, asked)
    ray.get(server.shards[1].adopt(server._staged), timeout=60)  # the first half of a commit
    batch = late.score(asked)
    assert batch.reward_version == new.version
    np.testing.assert_allclose(batch.scores, score_here(new, asked), rtol=1e-4, atol=1e-5)
    server.commit()
    server.rollback()


def test_a_shard_that_is_killed_comes_back_with_the_live_model_and_answers(server):
    new, asked, client = reward(seed=1), request(), server.client()
    client.score(asked)
    server.stage(new, asked)
    server.commit()
    before = {shard.name: shard.process_id for shard in server.statistics()}
    os.kill(before["shard-0"], signal.SIGKILL)
    batch = client.score(asked)
    assert not batch.failed.any()
    assert batch.reward_version == new.version
    np.testing.assert_allclose(batch.scores, score_here(new, asked), rtol=1e-4, atol=1e-5)
    after = {shard.name: shard.process_id for shard in server.statistics()}
    assert after["shard-0"] != before["shard-0"]
    assert after["shard-1"] == before["shard-1"]
    server.rollback()


def test_a_server_starts_from_a_directory_and_merged_requests_agree_with_the_model(tmp_path):
    model, asked = reward(), request()
    model.save(tmp_path)
    server = RewardServer.start(tmp_path, RewardConfig(num_shards=1, deterministic=False, max_wait_ms=20), CLUSTER)
    with pytest.raises(RewardError, match="nothing to roll back to"):
        server.rollback()
    with pytest.raises(ValueError, match=r"clip_index must lie in \[0, 6\)"):
        server.client().score(RewardRequest(asked.clips, ("x",), np.array([6])))
    for batch in ray.get([score_elsewhere.remote(server.client(), asked) for _ in range(3)], timeout=120):
        np.testing.assert_allclose(batch.scores, score_here(model, asked), rtol=1e-4, atol=1e-5)
    server.stop()
