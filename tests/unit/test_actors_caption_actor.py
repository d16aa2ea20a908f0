"""What a caption actor makes of batches whose clips can be used, in part, or not at all."""

import numpy as np
import pytest
import torch

from actors.audio_cursor import CursorBatch
from actors.caption_actor import CaptionActor
from rlcap.captioners.weights import publish
from rlcap.config.captioner import SamplingConfig
from rlcap.config.precision import Precision, SamplerPrecision
from rlcap.protocols import RewardClient
from rlcap.types import Quarantined, RewardBatch

GROUP = 3


class SomeClips:
    """Three clips, the first of which can be used."""

    def __init__(self, clip):
        self._clip = clip

    def __len__(self):
        return 3

    def read(self, positions):
        clips = [self._clip for position in positions if position == 0]
        return clips, [Quarantined(f"{position}.wav", "silent") for position in positions if position]


class RewardOfLength(RewardClient):
    def __init__(self):
        self.num_requests = 0
        self.captions = []

    def score(self, request):
        self.num_requests += 1
        self.captions += request.captions
        scores = np.array([len(caption) for caption in request.captions], dtype=np.float32)
        return RewardBatch(scores, np.zeros(len(scores), dtype=bool), (), "length")


@pytest.fixture
def reward():
    return RewardOfLength()


@pytest.fixture
def make_actor(make_captioner, make_clips):
    def make(**settings):
        captioners = (make_captioner(), make_captioner())
        clip = SomeClips(make_clips(1.0)[0])
        return CaptionActor(clip, *captioners, SamplingConfig(max_new_tokens=4), GROUP, **settings)

    return make


@pytest.fixture
def actor(make_actor):
    return make_actor()


def test_clips_that_cannot_be_used_are_left_out_and_listed(actor, reward):
    result = actor.caption(CursorBatch(7, 0, (2, 0), seed=1), 5, reward)
    assert result.scored is not None
    rollouts = result.scored.rollouts
    assert (rollouts.clip_ids, rollouts.batch_index, rollouts.policy_version) == (("clip-0",), 7, 5)
    assert len(rollouts.captions) == len(result.scored.rewards.scores) == GROUP
    assert result.quarantined == (Quarantined("2.wav", "silent"),)
    assert result.audio_s == 1.0


def test_a_batch_without_a_usable_clip_has_no_rollouts_and_asks_nobody_for_scores(actor, reward):
    result = actor.caption(CursorBatch(0, 0, (1, 2), seed=1), 0, reward)
    assert result.scored is None
    assert result.audio_s == 0
    assert [item.path for item in result.quarantined] == ["1.wav", "2.wav"]
    assert reward.num_requests == 0


def test_captions_are_scored_while_the_reference_scores_their_tokens(actor, monkeypatch):
    done = []

    class Slow(RewardOfLength):
        def ask(self, request):
            done.append("asked")
            wait = super().ask(request)
            return lambda: done.append("waited") or wait()

    score = actor._reference.log_probs
    monkeypatch.setattr(actor._reference, "log_probs", lambda *given: done.append("reference") or score(*given))
    actor.caption(CursorBatch(0, 0, (0,), seed=1), 0, Slow())
    assert done == ["asked", "reference", "waited"]


@pytest.mark.parametrize(("overlaps", "expected"), [(False, ["sampled", "begun"]), (True, ["begun", "sampled"])])
def test_the_next_clips_are_decoded_while_nothing_else_is_to_do(make_actor, reward, monkeypatch, overlaps, expected):
    done = []
    actor = make_actor(overlaps=overlaps)
    sample = actor._sample
    monkeypatch.setattr(actor, "_sample", lambda *given: done.append("sampled") or sample(*given))
    batch, upcoming = CursorBatch(0, 0, (0,), seed=1), CursorBatch(1, 0, (0, 0), seed=2)
    begin = actor._audio.begin

    def begin_noted(positions):
        if positions == upcoming.positions and "begun" not in done:
            done.append("begun")
        begin(positions)

    monkeypatch.setattr(actor._audio, "begin", begin_noted)
    actor.caption(batch, 0, reward, upcoming)
    assert done == expected


def test_greedy_captions_are_scored_in_the_same_request_and_are_no_rollouts(make_actor, reward):
    batch = CursorBatch(7, 0, (0, 1, 0), seed=1)
    plain = make_actor().caption(batch, 5, RewardOfLength()).scored
    scored = make_actor(with_greedy=True).caption(batch, 5, reward).scored
    assert plain.greedy_scores is None
    assert np.array_equal(scored.rollouts.tokens, plain.rollouts.tokens), "greedy captions cost no randomness"
    assert np.array_equal(scored.rewards.scores, plain.rewards.scores)
    assert len(scored.rewards.failed) == len(scored.rollouts.captions) == 2 * GROUP
    assert reward.num_requests == 1
    first, second = reward.captions[2 * GROUP :]
    assert first == second, "one clip, at two positions"
    assert scored.greedy_scores.tolist() == [len(first), len(second)]


def test_a_greedy_caption_without_a_score_leaves_the_others_theirs(make_actor):
    class FailsOnTheLast(RewardOfLength):
        def score(self, request):
            scores = super().score(request).scores
            failed = np.arange(len(scores)) == len(scores) - 1
            return RewardBatch(np.where(failed, np.float32(np.nan), scores), failed, ("asleep",), "length")

    scored = make_actor(with_greedy=True).caption(CursorBatch(0, 0, (0,), seed=1), 0, FailsOnTheLast()).scored
    assert np.isnan(scored.greedy_scores).all()
    assert not scored.rewards.failed.any()
    assert scored.rewards.failure_reasons == ("asleep",)


def test_an_actor_in_bfloat16_is_off_by_little_and_by_more_than_a_rounding_error(make_captioner, make_clips, reward):
    clip, sampling = (
        SomeClips(make_clips(1.0)[0]),
        SamplingConfig(max_new_tokens=8, precision=SamplerPrecision.bfloat16),
    )
    actor = CaptionActor(clip, make_captioner(), make_captioner(), sampling, 16)
    rollouts = actor.caption(CursorBatch(7, 0, (0,), seed=1), 5, reward).scored.rollouts
    exact = make_captioner()
    features = [torch.from_numpy(array) for array in (rollouts.features.frames, rollouts.features.frame_mask)]
    captions = [torch.from_numpy(array) for array in (rollouts.clip_index, rollouts.tokens, rollouts.action_mask)]
    with torch.no_grad():
        learner = exact.log_probs(exact.encode(*features), *captions, temperature=1.0).log_probs.numpy()
    off = np.abs(learner - rollouts.log_probs)[rollouts.action_mask]
    assert rollouts.log_probs.dtype == np.float32
    assert 1e-4 < off.max() < 0.5


@pytest.mark.parametrize("sampler", SamplerPrecision)
@pytest.mark.parametrize("wire", Precision)
def test_rollouts_tell_in_what_precision_they_were_sampled(make_captioner, make_clips, reward, sampler, wire):
    sampling = SamplingConfig(max_new_tokens=4, precision=sampler)
    actor = CaptionActor(SomeClips(make_clips(1.0)[0]), make_captioner(), make_captioner(), sampling, 2)

    def dtypes():
        return set(actor.caption(CursorBatch(7, 0, (0,), seed=1), 5, reward).scored.rollouts.dtypes)

    computes_in = "bfloat16" if sampler is SamplerPrecision.bfloat16 else "float32"
    assert dtypes() == {computes_in}
    actor.load(publish(make_captioner(), trainable_only=True, precision=wire))
    assert dtypes() == {computes_in, wire.value}
    actor.load(publish(make_captioner(), trainable_only=True))
    assert dtypes() == {computes_in, "float32"}


def test_samplers_compute_in_bfloat16_on_gpus_alone_where_nothing_else_is_asked_for():
    assert SamplingConfig().precision.on(gpu=True) is Precision.bfloat16
    assert SamplingConfig().precision.on(gpu=False) is Precision.float32
