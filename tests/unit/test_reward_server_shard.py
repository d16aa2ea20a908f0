import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from reward_server.micro_batching import MicroBatcher
from reward_server.shard import Shard
from reward_server.swap import Editions
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


def shard_of(model, **changes):
    return Shard("shard-7", Editions(0, model), RewardConfig(**changes))


def score(shard, clips, captions, clip_index):
    names = list(clips)
    reads = []

    def read(numbers):
        reads.append([names[number] for number in numbers])
        return [clips[names[number]] for number in numbers]

    return shard.score(shard.editions.live, names, read, captions, np.array(clip_index)), reads


def test_captions_are_scored_against_their_clips():
    found, _ = score(shard_of(FakeModel()), clips_of(a=1, b=2), ["x", "xx", "xxx"], [1, 0, 1])
    assert found.scores.tolist() == [2, 2, 6]
    assert not found.failed.any()
    assert (found.failure_reasons, found.version) == ((), "v1")


def test_audio_is_fetched_and_embedded_once():
    model = FakeModel()
    shard = shard_of(model)
    score(shard, clips_of(a=1, b=2), ["x", "y"], [0, 1])
    again, reads = score(shard, clips_of(b=2, c=3, a=1), ["x", "y", "z"], [0, 1, 2])
    assert reads == [["c"]]
    assert model.embedded == ["a", "b", "c"]
    assert again.scores.tolist() == [2, 3, 1]
    _, reads = score(shard, clips_of(a=1), ["x"], [0])
    assert reads == []
    assert (shard.cache_counts().num_hits, shard.cache_counts().num_misses) == (3, 3)


def test_a_cache_without_room_changes_no_score():
    shard = shard_of(FakeModel(), cache_mb=0)
    for _ in range(2):
        found, reads = score(shard, clips_of(a=1, b=2), ["x", "yy"], [0, 1])
        assert found.scores.tolist() == [1, 4]
        assert reads == [["a", "b"]]


@pytest.mark.parametrize("word", ["nan", "inf"])
def test_a_score_that_is_not_finite_is_a_failure_and_never_a_number(word):
    found, _ = score(shard_of(FakeModel()), clips_of(a=1), ["x", word, "xxx"], [0, 0, 0])
    assert found.failed.tolist() == [False, True, False]
    assert np.isnan(found.scores[1])
    assert found.failure_reasons == ("shard-7: reward model v1 gave scores that are not finite",)


def test_a_clip_that_cannot_be_embedded_fails_its_own_captions_only():
    clips = clips_of(a=1, refused=1, nothing=np.nan, b=2)
    found, _ = score(shard_of(FakeModel()), clips, ["x", "x", "x", "xx"], [0, 1, 2, 3])
    assert found.failed.tolist() == [False, True, True, False]
    assert found.scores[[0, 3]].tolist() == [1, 4]
    assert found.failure_reasons == (
        "shard-7: clip 'refused' cannot be embedded: too short for the encoder",
        "shard-7: clip 'nothing' has an embedding that is not finite",
    )


def test_audio_that_cannot_be_fetched_fails_what_is_not_cached():
    shard = shard_of(FakeModel())
    score(shard, clips_of(a=1), ["x"], [0])

    def read(numbers):
        raise RewardError("its owner is gone")

    found = shard.score(shard.editions.live, ["a", "b"], read, ["x", "y"], np.array([0, 1]))
    assert found.failed.tolist() == [False, True]
    assert found.failure_reasons == ("shard-7: the audio of 1 clips could not be fetched: its owner is gone",)


def test_a_model_that_raises_fails_the_whole_request():
    found, _ = score(shard_of(FakeModel()), clips_of(a=1), ["x", "raise"], [0, 0])
    assert found.failed.all()
    assert found.failure_reasons == ("shard-7: reward model v1 failed: the tower fell",)


def test_large_requests_are_scored_in_passes():
    model = FakeModel()
    found, _ = score(shard_of(model, max_batch_size=2), clips_of(a=1), ["x", "xx", "xxx"], [0, 0, 0])
    assert found.scores.tolist() == [1, 2, 3]
    assert model.passes == [("x", "xx"), ("xxx",)]


def score_from_threads(shard, num_threads):
    results = {}

    def ask(number):
        clips = clips_of(**{f"c{number}": number, "shared": 10})
        results[number] = score(shard, clips, ["x", "xx"], [0, 1])[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_requests_of_several_threads_share_passes_and_keep_their_own_scores():
    model = FakeModel()
    results = score_from_threads(shard_of(model, deterministic=False, max_wait_ms=200, max_batch_size=16), 8)
    assert all(results[number].scores.tolist() == [number, 20] for number in range(8))
    assert len(model.passes) < 8
    assert max(map(len, model.passes)) <= 16


def test_a_deterministic_shard_scores_each_request_by_itself():
    model = FakeModel()
    results = score_from_threads(shard_of(model), 6)
    assert all(results[number].scores.tolist() == [number, 20] for number in range(6))
    assert model.passes == [("x", "xx")] * 6


def test_merged_requests_around_a_swap_are_each_scored_by_their_model():
    old, new = FakeModel(), FakeModel(version="v2")
    new.score = lambda _, captions, __: np.full(len(captions), 7, dtype=np.float32)
    shard = shard_of(old, deterministic=False, max_wait_ms=200)
    before = shard.editions.live
    shard.editions.adopt(1, "v2", lambda: new)
    results = {}
    clip = clips_of(a=1)["a"]

    def ask(edition):
        found = shard.score(edition, ["a"], lambda _: [clip], ["xx"], np.array([0]))
        results[found.version] = found.scores.tolist()

    threads = [threading.Thread(target=ask, args=(edition,)) for edition in (before, shard.editions.live)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"v1": [2], "v2": [7]}


def test_an_error_in_a_merged_batch_reaches_every_waiting_thread_and_the_next_batch_runs():
    def run(jobs):
        if "bad" in jobs:
            raise ValueError("bad batch")
        return [job.upper() for job in jobs]

    batcher = MicroBatcher(run, len, max_size=6, max_wait_s=0.1)
    outcomes = {}

    def submit(job):
        try:
            outcomes[job] = batcher.submit(job)
        except ValueError as error:
            outcomes[job] = str(error)

    threads = [threading.Thread(target=submit, args=(job,)) for job in ("bad", "abc")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {"bad": "bad batch", "abc": "bad batch"}
    submit("fine")
    assert outcomes["fine"] == "FINE"


def test_a_full_batch_does_not_wait():
    batcher = MicroBatcher(lambda jobs: jobs, len, max_size=3, max_wait_s=30)
    start = time.monotonic()
    assert batcher.submit("abcdef") == "abcdef"
    assert time.monotonic() - start < 5
