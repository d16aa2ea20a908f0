import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from reward_server.shard import Shard
from rlcap.config.reward import RewardConfig
from rlcap.errors import RewardError
from rlcap.types import Clip


@dataclass
class FakeModel:
    """Embeds a clip as its first sample, scores it times the length of the caption."""

    version: str = "v1"
    encoder_fingerprint: str = "encoder"
    embedded: list = field(default_factory=list)
    passes: list = field(default_factory=list)

    def embed_audio(self, clips):
        self.embedded += [clip.clip_id for clip in clips]
        if any(clip.clip_id == "refused" for clip in clips):
            raise RuntimeError("too short for the encoder")
        return np.stack([clip.waveform[:1] for clip in clips])

    def score(self, audio, captions, clip_index):
        self.passes.append(tuple(captions))
        if "raise" in captions:
            raise RuntimeError("the tower fell")
        words = {"nan": np.nan, "inf": np.inf}
        lengths = np.array([words.get(caption, len(caption)) for caption in captions], dtype=np.float32)
        return audio[clip_index, 0] * lengths


def clips_of(**first_samples):
    return {name: Clip(name, np.array([value, 0], dtype=np.float32), 16_000) for name, value in first_samples.items()}


def shard_of(**changes):
    return Shard("shard-7", RewardConfig(**changes))


def score(shard, model, clips, captions, clip_index):
    names = list(clips)
    reads = []

    def read(numbers):
        reads.append([names[number] for number in numbers])
        return [clips[names[number]] for number in numbers]

    return shard.score(model, names, read, captions, np.array(clip_index)), reads


def test_captions_are_scored_against_their_clips():
    found, _ = score(shard_of(), FakeModel(), clips_of(a=1, b=2), ["x", "xx", "xxx"], [1, 0, 1])
    assert found.scores.tolist() == [2, 2, 6]
    assert not found.failed.any()
    assert (found.failure_reasons, found.version) == ((), "v1")


def test_audio_is_fetched_and_embedded_once():
    model = FakeModel()
    shard = shard_of()
    score(shard, model, clips_of(a=1, b=2), ["x", "y"], [0, 1])
    again, reads = score(shard, model, clips_of(b=2, c=3, a=1), ["x", "y", "z"], [0, 1, 2])
    assert reads == [["c"]]
    assert model.embedded == ["a", "b", "c"]
    assert again.scores.tolist() == [2, 3, 1]
    _, reads = score(shard, model, clips_of(a=1), ["x"], [0])
    assert reads == []
    assert shard.num_embedded == 3
    assert (shard.cache_counts().num_hits, shard.cache_counts().num_misses) == (3, 3)


def test_a_cache_without_room_changes_no_score():
    shard = shard_of(cache_mb=0)
    for _ in range(2):
        found, reads = score(shard, FakeModel(), clips_of(a=1, b=2), ["x", "yy"], [0, 1])
        assert found.scores.tolist() == [1, 4]
        assert reads == [["a", "b"]]


@pytest.mark.parametrize("word", ["nan", "inf"])
def test_a_score_that_is_not_finite_is_a_failure_and_never_a_number(word):
    found, _ = score(shard_of(), FakeModel(), clips_of(a=1), ["x", word, "xxx"], [0, 0, 0])
    assert found.failed.tolist() == [False, True, False]
    assert np.isnan(found.scores[1])
    assert found.failure_reasons == ("shard-7: reward model v1 gave scores that are not finite",)


def test_a_clip_that_cannot_be_embedded_fails_its_own_captions_only():
    clips = clips_of(a=1, refused=1, nothing=np.nan, b=2)
    found, _ = score(shard_of(), FakeModel(), clips, ["x", "x", "x", "xx"], [0, 1, 2, 3])
    assert found.failed.tolist() == [False, True, True, False]
    assert found.scores[[0, 3]].tolist() == [1, 4]
    assert found.failure_reasons == (
        "shard-7: clip 'refused' cannot be embedded: too short for the encoder",
        "shard-7: clip 'nothing' has an embedding that is not finite",
    )


def test_audio_that_cannot_be_fetched_fails_what_is_not_cached():
    shard = shard_of()
    score(shard, FakeModel(), clips_of(a=1), ["x"], [0])

    def read(numbers):
        raise RewardError("its owner is gone")

    found = shard.score(FakeModel(), ["a", "b"], read, ["x", "y"], np.array([0, 1]))
    assert found.failed.tolist() == [False, True]
    assert found.failure_reasons == ("shard-7: the audio of 1 clips could not be fetched: its owner is gone",)


def test_a_model_that_raises_fails_the_whole_request():
    found, _ = score(shard_of(), FakeModel(), clips_of(a=1), ["x", "raise"], [0, 0])
    assert found.failed.all()
    assert found.failure_reasons == ("shard-7: reward model v1 failed: the tower fell",)


def test_large_requests_are_scored_in_passes():
    model = FakeModel()
    found, _ = score(shard_of(max_batch_size=2), model, clips_of(a=1), ["x", "xx", "xxx"], [0, 0, 0])
    assert found.scores.tolist() == [1, 2, 3]
    assert model.passes == [("x", "xx"), ("xxx",)]


def score_from_threads(shard, model, num_threads):
    results = {}

    def ask(number):
        clips = clips_of(**{f"c{number}": number, "shared": 10})
        results[number] = score(shard, model, clips, ["x", "xx"], [0, 1])[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_requests_of_several_threads_share_passes_and_keep_their_own_scores():
    model = FakeModel()
    results = score_from_threads(shard_of(deterministic=False, max_wait_ms=200, max_batch_size=16), model, 8)
    assert all(results[number].scores.tolist() == [number, 20] for number in range(8))
    assert len(model.passes) < 8
    assert max(map(len, model.passes)) <= 16


def test_a_deterministic_shard_scores_each_request_by_itself():
    model = FakeModel()
    results = score_from_threads(shard_of(), model, 6)
    assert all(results[number].scores.tolist() == [number, 20] for number in range(6))
    assert model.passes == [("x", "xx")] * 6


def test_merged_requests_around_a_swap_are_each_scored_by_their_model():
    old, new = FakeModel(), FakeModel(version="v2")
    new.score = lambda _, captions, __: np.full(len(captions), 7, dtype=np.float32)
    shard = shard_of(deterministic=False, max_wait_ms=200)
    results = {}
    clip = clips_of(a=1)["a"]

    def ask(model):
        found = shard.score(model, ["a"], lambda _: [clip], ["xx"], np.array([0]))
        results[found.version] = found.scores.tolist()

    threads = [threading.Thread(target=ask, args=(model,)) for model in (old, new)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"v1": [2], "v2": [7]}


def test_a_request_that_breaks_the_model_takes_no_other_with_it():
    shard, model, results = shard_of(deterministic=False, max_wait_ms=200), FakeModel(), {}

    def ask(caption):
        results[caption] = score(shard, model, clips_of(a=1), [caption], [0])[0]

    run_threads([(ask, caption) for caption in ("x", "raise", "xxx")])
    assert results["raise"].failed.all()
    assert results["raise"].failure_reasons == ("shard-7: reward model v1 failed: the tower fell",)
    assert (results["x"].scores.tolist(), results["xxx"].scores.tolist()) == ([1], [3])
    assert not results["x"].failure_reasons


def test_a_clip_that_two_requests_bring_at_once_is_embedded_once():
    shard, model = shard_of(), FakeModel()
    both_have_come = threading.Barrier(2)
    clip = clips_of(a=1)["a"]

    def ask(_):
        def read(numbers):
            both_have_come.wait(timeout=30)
            return [clip for _ in numbers]

        shard.score(model, ["a"], read, ["x"], np.array([0]))

    run_threads([(ask, None), (ask, None)])
    assert model.embedded == ["a"]
    assert shard.num_embedded == 1


def test_a_shard_counts_requests_captions_failures_and_latency():
    shard = shard_of()
    assert np.isnan(shard.load().latency_p50_ms)
    score(shard, FakeModel(), clips_of(a=1), ["x", "nan"], [0, 0])
    score(shard, FakeModel(), clips_of(a=1), ["x"], [0])
    load = shard.load()
    assert (load.num_requests, load.num_captions, load.num_failed, load.num_open) == (2, 3, 1, 0)
    assert 0 < load.latency_p50_ms <= load.latency_p95_ms <= load.latency_p99_ms < 10_000
    assert (shard.batch_counts().num_batches, shard.batch_counts().total_size) == (2, 3)


def run_threads(calls):
    threads = [threading.Thread(target=function, args=(argument,)) for function, argument in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
