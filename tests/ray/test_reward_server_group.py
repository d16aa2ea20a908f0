"""Real shards in real processes: routing, death and return, failures that stay failures, the swap, and elasticity."""

import os
import signal
import sys
import time

import numpy as np
import pytest
import ray
import torch
from scipy.stats import spearmanr

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
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
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
    started = RewardServer(LIVE, RewardConfig(num_shards=2, shard_timeout_s=4), CLUSTER)
    started.wait_until_ready()
    yield started
    started.stop()


def num_embedded(server):
    return sum(shard.num_embedded for shard in server.statistics())


def wait_until(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


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


def test_what_a_hanging_shard_owes_is_asked_of_another_and_it_is_replaced(server):
    asked = request()
    hanging = server.statistics()[1].process_id
    os.kill(hanging, signal.SIGSTOP)
    begun = time.monotonic()
    batch = server.client().score(asked)
    assert 3 < time.monotonic() - begun < 30
    np.testing.assert_allclose(batch.scores, score_here(LIVE, asked), rtol=1e-4, atol=1e-5)
    assert [shard.name for shard in server.statistics()] == ["shard-0"]
    wait_until(lambda: len(server.statistics()) == 2)
    assert server.statistics()[1].process_id != hanging
    assert server.num_replaced == 1


def test_a_score_that_nobody_gives_in_time_is_a_failure_that_names_the_shard():
    server = RewardServer(LIVE, RewardConfig(num_shards=1, timeout_s=2, shard_timeout_s=1), CLUSTER)
    server.wait_until_ready()
    process_id = server.statistics()[0].process_id
    os.kill(process_id, signal.SIGSTOP)
    batch = server.client().score(request())
    assert batch.failed.all()
    assert np.isnan(batch.scores).all()
    assert batch.failure_reasons == ("shard-0 did not answer in time",)
    # A new process takes longer to start than a shard may stay silent: it is not killed for that.
    wait_until(lambda: server.statistics())
    assert server.statistics()[0].process_id != process_id
    assert server.num_replaced == 1
    server.stop()


def test_a_swap_is_staged_committed_and_rolled_back_and_a_new_head_hears_nothing_anew(server):
    new, asked, before = reward(head=CosineHead()), request(), server.client()
    before.score(asked)
    heard = num_embedded(server)
    report = server.stage(new, asked)
    assert (report.live_version, report.candidate_version) == (LIVE.version, new.version)
    assert server.client().score(asked).reward_version == LIVE.version
    server.commit()
    after = server.client().score(asked)
    assert after.reward_version == new.version
    np.testing.assert_allclose(after.scores, score_here(new, asked), rtol=1e-4, atol=1e-5)
    # What began before the swap ends by the model that it began with.
    assert before.score(asked).reward_version == LIVE.version
    server.rollback()
    back = server.client().score(asked)
    assert back.reward_version == LIVE.version
    np.testing.assert_allclose(back.scores, score_here(LIVE, asked), rtol=1e-4, atol=1e-5)
    assert num_embedded(server) == heard


@pytest.mark.parametrize(
    ("word", "fault"), [("dog", "of its 18 scores are missing"), ("[CLS]", "18 of its 18 scores are missing")]
)
def test_a_broken_candidate_is_refused_and_the_live_model_stays(server, word, fault):
    asked = request()
    with pytest.raises(RewardError, match=f"refused and {LIVE.version} stays live.*{fault}"):
        server.stage(reward(seed=1, breaks_on=word), asked)
    with pytest.raises(RewardError, match="no reward model is staged"):
        server.commit()
    assert server.client().score(asked).reward_version == LIVE.version


def test_a_candidate_without_room_beside_the_live_model_is_refused_with_the_figures():
    size_mb = LIVE.num_bytes / 1e6
    server = RewardServer(LIVE, RewardConfig(num_shards=1, memory_mb=1.5 * size_mb), CLUSTER)
    server.wait_until_ready()
    expected = rf"refused and {LIVE.version} stays live: it needs 0\.\d MB beside the live model's 0\.\d MB"
    with pytest.raises(RewardError, match=expected):
        server.stage(reward(seed=1), request())
    assert not server.client().score(request()).failed.any()
    server.stop()


def test_a_shadow_scores_the_traffic_and_nobody_uses_it(server):
    new, asked = reward(head=CosineHead()), request()
    with pytest.raises(RewardError, match="no reward model is staged"):
        server.shadow()
    server.stage(new, asked)
    assert server.shadow_report() is None
    server.shadow()
    batch = server.client().score(asked)
    assert batch.reward_version == LIVE.version
    np.testing.assert_allclose(batch.scores, score_here(LIVE, asked), rtol=1e-4, atol=1e-5)
    wait_until(lambda: server.shadow_report().num_captions == 18)
    expected = spearmanr(score_here(LIVE, asked), score_here(new, asked)).statistic
    assert server.shadow_report().rank_agreement == pytest.approx(expected, abs=1e-6)
    server.discard()
    assert server.shadow_report() is None


def test_a_shard_that_is_killed_comes_back_with_the_model_that_is_asked_for(server):
    new, asked = reward(seed=1), request()
    server.stage(new, asked)
    server.commit()
    client = server.client()
    before = {shard.name: shard.process_id for shard in server.statistics()}
    scores = client.ask(asked)
    os.kill(before["shard-0"], signal.SIGKILL)
    batch = scores()
    assert not batch.failed.any()
    assert batch.reward_version == new.version
    np.testing.assert_allclose(batch.scores, score_here(new, asked), rtol=1e-4, atol=1e-5)
    wait_until(lambda: len(server.statistics()) == 2)
    # It is asked again after a while, and loads the model before it answers.
    wait_until(lambda: client.score(asked).failed.sum() == 0 and server.statistics()[0].versions == (new.version,))
    after = {shard.name: shard for shard in server.statistics()}
    assert after["shard-0"].process_id != before["shard-0"]
    assert after["shard-1"].process_id == before["shard-1"]
    server.rollback()


def test_shards_join_and_leave_and_only_the_clips_that_must_move_do():
    server = RewardServer(LIVE, RewardConfig(num_shards=2), CLUSTER)
    server.wait_until_ready()
    asked, early = request(num_clips=12), server.client()
    clip_ids = [clip.clip_id for clip in asked.clips]

    def owners():
        return [server.roster.answering(clip_id).name for clip_id in clip_ids]

    early.score(asked)
    assert num_embedded(server) == 12
    two = owners()
    assert server.add_shard() == "shard-2"
    three = owners()
    moved = [new for old, new in zip(two, three, strict=True) if old != new]
    assert moved
    assert set(moved) == {"shard-2"}
    server.client().score(asked)
    assert num_embedded(server) == 12 + len(moved)
    assert server.add_replica("shard-0") == "shard-3"
    four = owners()
    changes = {(old, new) for old, new in zip(three, four, strict=True) if old != new}
    assert changes == {("shard-0", "shard-3")}
    server.remove_shard("shard-1")
    assert {new for old, new in zip(four, owners(), strict=True) if old == new} == {"shard-0", "shard-2", "shard-3"}
    # A client that was made before all this still gets every score.
    for client in (early, server.client()):
        batch = client.score(asked)
        np.testing.assert_allclose(batch.scores, score_here(LIVE, asked), rtol=1e-4, atol=1e-5)
    with pytest.raises(RewardError, match="there is no shard 'shard-9'; there are shard-0, shard-2"):
        server.add_replica("shard-9")
    server.remove_shard("shard-0")
    with pytest.raises(RewardError, match="shard-2 is the only shard there is"):
        server.remove_shard("shard-2")
    server.stop()


def test_a_shard_that_the_cluster_has_no_room_for_is_refused_at_once():
    server = RewardServer(LIVE, RewardConfig(num_shards=1), ClusterConfig(shard_cpus=2))
    server.wait_until_ready()
    with pytest.raises(RewardError, match=r"one more shard needs 2 CPU \(cluster.shard_cpus\), and Ray has 0 free"):
        server.add_shard()
    server.stop()


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
    assert num_embedded(server) == 6
    server.stop()
