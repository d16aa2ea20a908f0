"""Passes in pieces, in bfloat16, and over what the sampler has scored before."""

import copy
import math

import numpy as np
import pytest
import torch
from half_precision import LORA, PPO, Checkpoints, to_train
from small_captioner import SmallCaptioner, edit, experience_of, gradient_of, make_update, sample, weights_of
from tiny_captioners import adopt

from actors.audio_cursor import CursorBatch
from actors.caption_actor import CaptionActor
from learner.batching import Captions, merge
from learner.collective import SingleLearner
from learner.policy_pass import PolicyPass
from rlcap.config.algorithm import AlgorithmKind, KLEstimator, KLPlace, LossAggregation, PPOConfig
from rlcap.config.captioner import SamplingConfig
from rlcap.config.precision import Precision, SamplerPrecision
from rlcap.protocols import RewardClient
from rlcap.types import RewardBatch


@pytest.mark.parametrize("aggregation", LossAggregation)
@pytest.mark.parametrize("microbatch_size", [1, 3, 4, 5, 16])
def test_gradients_of_pieces_add_up_to_that_of_the_whole(microbatch_size, aggregation):
    settings = {"kl_in": KLPlace.loss, "entropy_coef": 0.1, "loss_aggregation": aggregation}
    whole, parts = make_update(**settings), make_update(**settings, microbatch_size=microbatch_size)
    experience = experience_of([sample(whole.captioner)], whole.captioner)
    clips = torch.tensor([2, 0, 3])
    averages = [update.compute_gradient(experience, clips, num_units=9.0) for update in (whole, parts)]
    torch.testing.assert_close(gradient_of(parts), gradient_of(whole), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*averages, rtol=1e-5, atol=1e-6)


def test_a_piece_holds_no_more_rollouts_than_asked_for_and_encodes_only_its_own_clips():
    update = make_update(num_epochs=1, minibatch_size=8, microbatch_size=3)
    scored, seen = sample(update.captioner), []
    update.captioner.clips_encoded.clear()
    log_probs = update.captioner.log_probs
    update.captioner.log_probs = lambda encoding, clip_index, *rest: (
        seen.append(len(clip_index)) or log_probs(encoding, clip_index, *rest)
    )
    update.update([scored])
    assert seen == [3, 3, 2] * 2
    assert update.captioner.clips_encoded == [1, 2, 1] * 2


@pytest.fixture
def captions(make_captioner, make_clips):
    captioner = make_captioner()
    features = captioner.features(make_clips(1.0, 0.7))
    tokens, mask = captioner.tokenize(["a dog barks", "rain falls then rain", "a dog"])
    index = torch.tensor([0, 1, 1])
    frames, frame_mask = torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask)
    return captioner, Captions(frames, frame_mask, index, tokens, mask, temperature=0.7)


def test_bfloat16_rounds_the_passes_and_leaves_log_softmax_in_float32(captions):
    captioner, given = captions
    exact, rounded = (
        PolicyPass(captioner, PPOConfig(precision=precision), SingleLearner()).forward(given) for precision in Precision
    )
    for name in ("log_probs", "values", "entropy"):
        assert getattr(rounded, name).dtype == torch.float32
    assert not torch.equal(rounded.log_probs, exact.log_probs)
    torch.testing.assert_close(rounded.log_probs, exact.log_probs, rtol=0.02, atol=0.05)
    rounded_again = rounded.log_probs.to(torch.bfloat16).float()
    assert not torch.equal(rounded.log_probs, rounded_again), "they are no bfloat16 numbers"
    assert {parameter.dtype for parameter in captioner.parameters()} == {torch.float32}


def test_bfloat16_learns_what_float32_learns_and_does_not_trust_a_float32_sampler():
    settings = {"num_epochs": 1, "minibatch_size": 99, "kind": AlgorithmKind.rloo}
    exact, rounded = make_update(**settings), make_update(**settings, precision=Precision.bfloat16)
    scored = sample(exact.captioner)
    before = weights_of(exact)
    metrics = [update.update([scored]) for update in (exact, rounded)]
    steps = [weights_of(update) - before for update in (exact, rounded)]
    assert torch.nn.functional.cosine_similarity(*steps, dim=0) > 0.97
    assert metrics[1]["learner/approx_kl"] == pytest.approx(0, abs=1e-7)
    assert metrics[1]["learner/mismatch_kl"] > 0


def off_by(scored, scale):
    """The same rollouts from a sampler whose log-probs are a little off."""
    noise = np.random.default_rng(9).normal(scale=scale, size=scored.rollouts.log_probs.shape)
    return edit(scored, log_probs=(scored.rollouts.log_probs + noise).astype(np.float32))


def test_recomputed_log_probs_are_those_of_the_learner_and_weights_correct_the_sampler():
    update = make_update(recompute_log_probs=True, num_epochs=1, minibatch_size=99, max_importance_weight=1.1)
    right = sample(update.captioner)
    wrong = off_by(right, 0.2)
    mask = right.rollouts.action_mask
    log_ratios = (right.rollouts.log_probs.astype(np.float64) - wrong.rollouts.log_probs)[mask]
    metrics = update.update([wrong])
    assert metrics["rollout/staleness"] == 0
    assert metrics["learner/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["learner/importance_weight"] == pytest.approx(np.minimum(np.exp(log_ratios), 1.1).mean(), abs=1e-5)
    assert metrics["learner/mismatch_kl"] == pytest.approx((np.expm1(log_ratios) - log_ratios).mean(), abs=1e-5)
    trusting = make_update(num_epochs=1, minibatch_size=99).update([wrong])
    assert trusting["learner/importance_weight"] == 1
    assert trusting["learner/approx_kl"] > 1e-3, "it takes the mismatch for a move of the policy"


@pytest.mark.parametrize("microbatch_size", [0, 3])
def test_recomputing_changes_next_to_nothing_where_the_sampler_is_right(microbatch_size):
    updates = [make_update(), make_update(recompute_log_probs=True, microbatch_size=microbatch_size)]
    scored = sample(updates[0].captioner)
    for update in updates:
        update.update([scored])
    torch.testing.assert_close(*(weights_of(update) for update in updates), rtol=0, atol=1e-5)


def test_stale_rollouts_are_recomputed_in_pieces_as_well():
    captioner = SmallCaptioner()
    batch = merge([sample(captioner)])
    moved = copy.deepcopy(captioner)
    with torch.no_grad():
        moved.vocabulary.bias += torch.randn(7, generator=torch.Generator().manual_seed(0))
    stale = torch.arange(16) < 9
    computed = PolicyPass(moved, PPOConfig(microbatch_size=3), SingleLearner()).proximal_log_probs(batch, stale, seed=0)
    mask = batch.captions.action_mask
    with torch.no_grad():
        expected = PolicyPass(moved, PPOConfig(), SingleLearner()).forward(batch.captions).log_probs
    torch.testing.assert_close(computed[:9][mask[:9]], expected[:9][mask[:9]])
    assert torch.equal(computed[9:], batch.log_probs[9:])


class EndlessClips:
    """Any position is one of these clips."""

    def __init__(self, clips):
        self.clips = clips

    def __len__(self):
        return len(self.clips)

    def read(self, positions):
        return [self.clips[position] for position in positions], []


class AnyReward(RewardClient):
    def score(self, request):
        scores = np.random.default_rng(0).normal(size=len(request.captions)).astype(np.float32)
        return RewardBatch(scores, np.zeros(len(scores), dtype=bool), (), "any")


@pytest.mark.parametrize("architecture", ["whisper", "qwen2_audio"])
def test_what_a_bfloat16_sampler_gets_wrong_is_measured_and_weighted(tiny_checkpoint, make_clips, architecture):
    policy = adopt(architecture, tiny_checkpoint(architecture))
    sampling = SamplingConfig(max_new_tokens=8, temperature=0.7, precision=SamplerPrecision.bfloat16)
    sampler, reference = (copy.deepcopy(policy) for _ in range(2))
    actor = CaptionActor(EndlessClips(make_clips(1.0, 0.5)), sampler, reference, sampling, samples_per_clip=6)
    rollouts = actor.caption(CursorBatch(0, 0, (0, 1), seed=1), 0, AnyReward()).scored
    captions, mask = merge([rollouts]).captions, rollouts.rollouts.action_mask
    with torch.no_grad():
        exact = PolicyPass(policy, PPOConfig(), SingleLearner()).forward(captions).log_probs.numpy()
    log_ratios = (exact.astype(np.float64) - rollouts.rollouts.log_probs)[mask]
    assert 1e-3 < np.abs(log_ratios).max() < 0.5, "the rounding of bfloat16, and no more"
    policy.train()  # an update turns dropout off
    update = make_update(policy, num_epochs=1, minibatch_size=99, max_importance_weight=1.0)
    metrics = update.update([rollouts])
    assert metrics["learner/mismatch_kl"] == pytest.approx((np.expm1(log_ratios) - log_ratios).mean(), rel=1e-2)
    assert metrics["learner/mismatch_kl"] > 1e-7
    weights = np.minimum(np.exp(log_ratios), 1.0)
    assert metrics["learner/importance_weight"] == pytest.approx(weights.mean(), abs=1e-5)
    assert metrics["learner/importance_weight"] != pytest.approx(1, abs=1e-4)
    assert metrics["learner/approx_kl"] == pytest.approx(0, abs=1e-6)


TRUNCATIONS = [{}, {"top_k": 4}, {"top_p": 0.8}, {"top_k": 6, "top_p": 0.9}]


@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=str)
@pytest.mark.parametrize("recompute_log_probs", [False, True])
def test_a_policy_lies_no_distance_from_itself_whatever_it_was_drawn_from(
    make_captioner, make_clips, truncation, recompute_log_probs
):
    policy, sampler, reference = (make_captioner(seed=1) for _ in range(3))
    sampling = SamplingConfig(max_new_tokens=8, temperature=0.7, **truncation)
    actor = CaptionActor(EndlessClips(make_clips(1.0, 0.5)), sampler, reference, sampling, samples_per_clip=6)
    scored = actor.caption(CursorBatch(0, 0, (0, 1), seed=1), 0, AnyReward()).scored
    settings = {"num_epochs": 1, "minibatch_size": 99, "kl_in": KLPlace.loss, "kl_estimator": KLEstimator.k3}
    metrics = make_update(policy, recompute_log_probs=recompute_log_probs, **settings).update([scored])
    distances = ("rollout/kl_to_reference", "learner/mismatch_kl", "learner/approx_kl", "learner/kl_loss")
    assert {name: metrics[name] for name in distances} == pytest.approx(dict.fromkeys(distances, 0), abs=1e-5)
    assert metrics["learner/importance_weight"] == pytest.approx(1, abs=1e-5)
    if "top_k" in truncation:
        assert 0 < metrics["learner/entropy"] < math.log(truncation["top_k"])


@pytest.mark.parametrize(
    ("sampled_in", "settings", "trusted"),
    [
        (("float32",), {}, True),
        (("bfloat16",), {}, False),
        (("bfloat16", "float32"), {}, False),
        (("float32",), {"precision": Precision.bfloat16}, False),
        (("bfloat16",), {"precision": Precision.bfloat16}, False),
        (("float32",), {"recompute_log_probs": True}, False),
    ],
)
def test_a_sampler_is_trusted_where_both_sides_compute_in_float32(monkeypatch, sampled_in, settings, trusted):
    update, asked = make_update(**settings), []
    known = sample(update.captioner), sample(update.captioner, batch_index=1)
    mixed = edit(known[0], dtypes=sampled_in), edit(known[1], dtypes=("float32",))
    passes = update._passes
    scored_by_learner = passes.proximal_log_probs
    monkeypatch.setattr(
        passes,
        "proximal_log_probs",
        lambda batch, recompute, seed: asked.append(recompute) or scored_by_learner(batch, recompute, seed=seed),
    )
    update.update(mixed)
    (recompute,) = asked
    assert recompute[:16].all() == recompute[:16].any() == (not trusted)
    assert recompute[16:].any() == (bool(settings)), "of every rollout by itself"


@pytest.mark.parametrize(
    ("family", "dtype", "tuning", "in_float32"),
    [
        ("whisper", "bfloat16", PPO, True),
        ("whisper", "bfloat16", LORA, False),
        ("whisper", "float16", LORA, True),
        ("prefix", "bfloat16", PPO, True),
        ("prefix", "bfloat16", LORA, False),
    ],
)
def test_a_learner_computes_as_its_weights_are_held_the_encoder_that_heard_before_left_out(
    tmp_path, family, dtype, tuning, in_float32
):
    captioner = to_train(family, Checkpoints(tmp_path).find(family, dtype), tuning)
    assert PolicyPass(captioner, PPOConfig(), SingleLearner()).are_in_float32 is in_float32


@pytest.mark.parametrize("precision", Precision)
def test_gradients_go_through_frozen_weights_in_float16(tmp_path, make_clips, precision):
    directory, gradients = Checkpoints(tmp_path).find("whisper", "float16"), []
    features = to_train("whisper", directory, PPO).features(make_clips(1.0))
    for device in ("cuda", "cpu"):  # as a GPU's would be held, and its float32 twin
        captioner = to_train("whisper", directory, LORA, device=torch.device(device))
        tokens, mask = captioner.tokenize(["a tree falls"])
        frames, frame_mask = torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask)
        passes = PolicyPass(captioner, PPOConfig(precision=precision), SingleLearner())
        assert passes.are_in_float32 is (device == "cpu" and precision is Precision.float32)
        passes.forward(Captions(frames, frame_mask, torch.tensor([0]), tokens, mask, 1.0)).log_probs.mean().backward()
        trained = [one.grad for name, one in captioner.named_parameters() if "lora_B" in name]
        gradients.append(torch.cat([one.reshape(-1) for one in trained]))
    assert gradients[0].dtype == torch.float32
    likeness = torch.cosine_similarity(*gradients, dim=0)
    assert likeness > (0.999 if precision is Precision.float32 else 0.98)
