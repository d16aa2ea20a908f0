"""The update as a whole, on a captioner of a few hundred parameters."""

import copy
import dataclasses
import math
import threading

import numpy as np
import pytest
import torch
from small_captioner import (
    EOS,
    MELS,
    WIDTH,
    SmallCaptioner,
    ThreadedLearner,
    edit,
    experience_of,
    gradient_of,
    make_update,
    sample,
    weights_after,
    weights_of,
)
from torch import nn

from learner import saved_state
from learner.aggregation import count_units
from learner.batching import deal_clips, merge
from learner.objective import AVERAGES
from rlcap.config.algorithm import AlgorithmKind, KLEstimator, KLPlace, LossAggregation
from rlcap.errors import ActorLostError, CheckpointError, RlcapError
from rlcap.types import PolicyFeatures, RewardBatch

OF_GROUPS = [AlgorithmKind.rloo, AlgorithmKind.grpo]
CRITIC_FREE = [*OF_GROUPS, AlgorithmKind.scst]


@pytest.mark.parametrize("aggregation", LossAggregation)
@pytest.mark.parametrize("minibatch_size", [1, 5, 8, 12])
def test_minibatch_gradients_average_to_the_gradient_of_the_whole_batch(minibatch_size, aggregation):
    update = make_update(kl_in=KLPlace.loss, entropy_coef=0.1, loss_aggregation=aggregation)
    experience = experience_of([sample(update.captioner, one, num_clips=3) for one in range(2)], update.captioner)
    num_units = int(count_units(experience.captions.action_mask, aggregation).sum())
    whole_averages = update.compute_gradient(experience, torch.arange(6), num_units=num_units)
    whole = gradient_of(update)
    minibatches = deal_clips(experience.captions.clip_index, minibatch_size, [0])
    parts, averages = [], []
    for clips in minibatches:
        averages.append(update.compute_gradient(experience, clips, num_units=num_units / len(minibatches)))
        parts.append(gradient_of(update))
    torch.testing.assert_close(sum(parts) / len(parts), whole, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(sum(averages) / len(averages), whole_averages, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    update = make_update(kl_in=KLPlace.loss, kl_estimator=KLEstimator.k3, entropy_coef=0.1, value_coef=0.3, kl_coef=0.7)
    experience = experience_of([sample(update.captioner)], update.captioner)
    averages = update.compute_gradient(experience, torch.arange(4), num_units=10.0)
    named = dict(zip(AVERAGES, averages.tolist(), strict=True))
    expected = named["policy_loss"] + 0.3 * named["value_loss"] - 0.1 * named["entropy"] + 0.7 * named["kl_loss"]
    assert named["loss"] == pytest.approx(expected)
    assert all(named[name] != 0 for name in ("policy_loss", "value_loss", "entropy", "kl_loss"))


@pytest.mark.parametrize("kind", AlgorithmKind)
@pytest.mark.parametrize("aggregation", LossAggregation)
def test_padding_changes_no_weight(kind, aggregation):
    scored = sample(SmallCaptioner())
    arrays = scored.rollouts

    def widened(array, fill):
        return np.pad(array, ((0, 0), (0, 3)), constant_values=fill)

    frames = np.pad(arrays.features.frames, ((0, 0), (0, 2), (0, 0)), constant_values=np.nan)
    padded = edit(
        scored,
        features=PolicyFeatures(frames, widened(arrays.features.frame_mask, fill=False)[:, :7]),
        tokens=widened(arrays.tokens, 5),
        action_mask=widened(arrays.action_mask, fill=False),
        **{name: widened(getattr(arrays, name), np.nan) for name in ("log_probs", "ref_log_probs", "values")},
    )
    settings = {"kind": kind, "loss_aggregation": aggregation}
    torch.testing.assert_close(
        weights_after([padded], **settings), weights_after([scored], **settings), rtol=0, atol=1e-6
    )


def test_the_end_of_sequence_token_is_an_action_also_where_it_equals_the_padding():
    scored = sample(SmallCaptioner())
    tokens, mask = scored.rollouts.tokens, scored.rollouts.action_mask
    assert (tokens[~mask] == EOS).any()
    other_padding = edit(scored, tokens=np.where(mask, tokens, 3))
    assert torch.equal(weights_after([scored]), weights_after([other_padding]))
    shorter = mask & ~((tokens == EOS) & mask & (mask.sum(axis=1, keepdims=True) > 1))
    assert not torch.equal(weights_after([scored]), weights_after([edit(scored, action_mask=shorter)]))


@pytest.mark.parametrize("kind", AlgorithmKind)
def test_the_order_of_rollouts_and_batches_does_not_matter_to_a_full_batch_step(kind):
    first, second = sample(SmallCaptioner(), 0), sample(SmallCaptioner(), 1)
    order = np.random.default_rng(5).permutation(16)
    names = ("clip_index", "tokens", "action_mask", "log_probs", "ref_log_probs", "values", "truncated")
    shuffled = dataclasses.replace(
        edit(first, **{name: getattr(first.rollouts, name)[order] for name in names}),
        rewards=dataclasses.replace(first.rewards, scores=first.rewards.scores[order]),
    )
    settings = {"kind": kind, "minibatch_size": 1000, "num_epochs": 1}
    torch.testing.assert_close(
        weights_after([second, shuffled], **settings), weights_after([first, second], **settings), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("kind", AlgorithmKind)
def test_failed_rewards_count_as_if_their_rollouts_had_never_been(kind):
    failed = [0, 5, 6, 7, 12, 13, 14, 15]
    scored = sample(SmallCaptioner(), failed=failed)
    kept = np.setdiff1d(np.arange(16), failed)
    names = ("clip_index", "tokens", "action_mask", "log_probs", "ref_log_probs", "values", "truncated")
    alone = dataclasses.replace(
        edit(scored, captions=("",) * 8, **{name: getattr(scored.rollouts, name)[kept] for name in names}),
        rewards=RewardBatch(scored.rewards.scores[kept], np.zeros(8, dtype=bool), (), "v1"),
    )
    assert torch.equal(weights_after([scored], kind=kind), weights_after([alone], kind=kind))
    assert make_update(kind=kind).update([scored])["rollout/failed"] == 8


def test_an_update_whose_every_reward_failed_takes_no_step_and_says_so():
    update = make_update()
    before = weights_of(update)
    metrics = update.update([sample(update.captioner, failed=range(16))])
    assert torch.equal(weights_of(update), before)
    assert (metrics["learner/num_optimizer_steps"], metrics["rollout/failed"], update.policy_version) == (0, 16, 1)


OPTIONS = {
    "max_grad_norm": 0.05,
    "kl_target": 1.0,
    "dual_clip": 3.0,
    "advantage_clip": 2.0,
    "loss_aggregation": LossAggregation.caption_mean,
    "critic_warmup_updates": 1,
    "microbatch_size": 3,
    "recompute_log_probs": True,
}


@pytest.mark.parametrize("options", [{}, {"kind": AlgorithmKind.rloo}, OPTIONS], ids=["ppo", "rloo", "options"])
@pytest.mark.parametrize("num_learners", [2, 3])
def test_several_learners_do_what_one_does(num_learners, options):
    settings = {"minibatch_size": 12, **options}
    rollouts = [[sample(SmallCaptioner(), 2 * one, num_clips=3), sample(SmallCaptioner(), 2 * one + 1, num_clips=4)]
                for one in range(3)]  # fmt: skip
    barrier, board, results = threading.Barrier(num_learners), {}, {}

    # Other weights on every learner: they must take over those of the first.
    captioners = [SmallCaptioner(seed=rank) for rank in range(num_learners)]

    def learn(rank):
        update = make_update(captioners[rank], collective=ThreadedLearner(rank, barrier, board), **settings)
        metrics = [update.update(scored) for scored in rollouts]
        results[rank] = weights_of(update), metrics

    threads = [threading.Thread(target=learn, args=(rank,)) for rank in range(num_learners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    alone = make_update(SmallCaptioner(seed=0), **settings)
    alone_metrics = [alone.update(scored) for scored in rollouts]
    for rank in range(num_learners):
        weights, metrics = results[rank]
        assert torch.equal(weights, results[0][0])
        torch.testing.assert_close(weights, weights_of(alone), rtol=0, atol=1e-5)
        for one, other in zip(metrics, alone_metrics, strict=True):
            expected = other | {"learner/update_s": one["learner/update_s"]}
            assert one == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_learner_that_fails_stops_the_others_instead_of_keeping_them_waiting():
    barrier, board, errors = threading.Barrier(2), {}, {}

    def learn(rank):
        update = make_update(SmallCaptioner(), collective=ThreadedLearner(rank, barrier, board))
        if rank == 1:
            update.captioner.encode = lambda *_: (_ for _ in ()).throw(MemoryError("planted"))
        try:
            update.update([scored])
        except (MemoryError, ActorLostError) as error:
            errors[rank] = error

    scored = sample(SmallCaptioner())
    threads = [threading.Thread(target=learn, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(errors[1], MemoryError)
    assert isinstance(errors[0], ActorLostError)
    assert "another learner of the group failed" in str(errors[0])


@pytest.mark.parametrize("kind", AlgorithmKind)
def test_a_resumed_run_gives_the_same_bits(kind, tmp_path):
    batches = [[sample(SmallCaptioner(), one)] for one in range(4)]
    settings = {"kind": kind, "warmup_updates": 3}
    straight = make_update(**settings)
    for scored in batches[:2]:
        straight.update(scored)
    saved_state.save(straight, tmp_path)
    resumed = make_update(SmallCaptioner(seed=9), seed=77, **settings)
    saved_state.load(resumed, tmp_path)
    for scored in batches[2:]:
        first, second = straight.update(scored), resumed.update(scored)
        del first["learner/update_s"], second["learner/update_s"]
        assert first == second
    assert torch.equal(weights_of(straight), weights_of(resumed))
    with pytest.raises(RlcapError, match="batch 0 came to the learner twice"):
        resumed.update(batches[0])


def test_a_saved_state_of_another_captioner_is_refused(tmp_path):
    other = SmallCaptioner()
    other.audio = nn.Linear(MELS, WIDTH + 1)
    saved_state.save(make_update(other), tmp_path)
    with pytest.raises(CheckpointError, match="does not fit this captioner"):
        saved_state.load(make_update(), tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a state"])
def test_a_damaged_or_missing_state_is_refused(tmp_path, content):
    with pytest.raises(CheckpointError, match=r"learner\.pt is missing"):
        saved_state.load(make_update(), tmp_path)
    (tmp_path / saved_state.STATE_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        saved_state.load(make_update(), tmp_path)


def test_code_in_a_saved_state_is_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"captioner": Attack()}, tmp_path / saved_state.STATE_FILE)
    with pytest.raises(CheckpointError):
        saved_state.load(make_update(), tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_a_loss_that_is_not_finite_stops_the_update_before_the_step():
    update = make_update()
    update.update([sample(update.captioner, 0)])
    scored = sample(update.captioner, 1, version=1)
    with torch.no_grad():
        update.captioner.vocabulary.bias[2] = math.nan
    before = weights_of(update)
    with pytest.raises(RlcapError, match=r"update 2: the loss is nan and the norm of its gradient nan, on .*"):
        update.update([scored])
    assert torch.equal(weights_of(update).nan_to_num(), before.nan_to_num())


def test_a_gradient_that_is_not_finite_stops_the_update_although_the_loss_is():
    update = make_update()
    update.captioner.vocabulary.weight.register_hook(lambda gradient: gradient * math.inf)
    before = weights_of(update)
    with pytest.raises(RlcapError, match=r"update 1: the loss is -?[0-9]"):
        update.update([sample(SmallCaptioner())])
    assert torch.equal(weights_of(update), before)


def test_long_gradients_are_scaled_down():
    free, bound = make_update(max_grad_norm=1e9), make_update(max_grad_norm=1e-3)
    for update in (free, bound):
        experience = experience_of([sample(update.captioner)], update.captioner)
        update.compute_gradient(experience, torch.arange(4), num_units=1.0)
        update._step(torch.zeros(len(AVERAGES)), experience, torch.arange(4))
    norms = [[nn.utils.get_total_norm([parameter.grad for parameter in group["params"]]) for group in
              update.optimizer.param_groups] for update in (free, bound)]  # fmt: skip
    assert min(norms[0]) > 0.1
    assert norms[1] == pytest.approx([1e-3, 1e-3], rel=1e-3)


def test_fresh_rollouts_show_no_mismatch_and_need_no_weight():
    metrics = make_update(num_epochs=1, minibatch_size=99).update([sample(SmallCaptioner())])
    assert metrics["learner/mismatch_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["learner/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["learner/importance_weight"] == pytest.approx(1, abs=1e-6)
    assert metrics["rollout/staleness"] == 0


def test_the_mismatch_is_taken_before_the_first_step():
    metrics = make_update(num_epochs=4).update([sample(SmallCaptioner())])
    assert metrics["learner/mismatch_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["learner/behaviour_kl"] > 1e-4


def test_stale_rollouts_are_weighted_and_their_trust_region_lies_around_the_policy_of_now():
    update = make_update(num_epochs=1, minibatch_size=99, max_importance_weight=1.2)
    old, new = sample(update.captioner, 1), sample(update.captioner, 2)
    before = copy.deepcopy(update.captioner)
    for index in range(3, 6):
        update.update([sample(update.captioner, index, version=update.policy_version)])
    new = sample(update.captioner, 2, version=3)
    current, expected = copy.deepcopy(update.captioner), []
    for scored in (old, new):
        sampler = before if scored is old else current
        captions = merge([scored]).captions
        views = [one.log_probs(one.encode(captions.frames, captions.frame_mask), captions.clip_index, captions.tokens,
                               captions.action_mask, 0.8).log_probs for one in (current, sampler)]  # fmt: skip
        expected += (views[0] - views[1])[captions.action_mask].exp().clamp(max=1.2).tolist()
    metrics = update.update([old, new])
    assert metrics["rollout/staleness"] == 1.5
    assert metrics["rollout/staleness_max"] == 3
    assert {name: value for name, value in metrics.items() if "staleness_share" in name} == {
        "rollout/staleness_share_0": 0.5,
        "rollout/staleness_share_3": 0.5,
    }
    assert metrics["learner/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["learner/mismatch_kl"] > 1e-4
    assert metrics["learner/importance_weight"] == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert metrics["learner/importance_weight"] != pytest.approx(1, abs=1e-4)


def test_rollouts_of_a_newer_policy_are_refused():
    with pytest.raises(RlcapError, match="rollouts of policy version 2 came to a learner that is at version 0"):
        make_update().update([sample(SmallCaptioner(), version=2)])


def test_rollouts_enter_one_update_only():
    update = make_update()
    update.update([sample(update.captioner, 4)])
    with pytest.raises(RlcapError, match="batch 4 came to the learner twice"):
        update.update([sample(update.captioner, 5, version=1), sample(update.captioner, 4, version=1)])


def test_dropout_is_off():
    update = make_update(SmallCaptioner(dropout=0.5), num_epochs=1, minibatch_size=99)
    scored = sample(update.captioner)
    update.captioner.train()
    assert update.update([scored])["learner/mismatch_kl"] == pytest.approx(0, abs=1e-6)


def test_a_policy_that_moves_too_far_ends_the_update_early():
    settings = {"learning_rate": 0.1, "num_epochs": 10}
    free = make_update(**settings).update([sample(SmallCaptioner())])
    bound = make_update(**settings, target_kl=0.01).update([sample(SmallCaptioner())])
    assert (free["learner/num_optimizer_steps"], free["learner/num_skipped_minibatches"]) == (20, 0)
    assert 0 < bound["learner/num_optimizer_steps"] < 20
    assert bound["learner/num_optimizer_steps"] + bound["learner/num_skipped_minibatches"] == 20
    assert bound["learner/approx_kl"] <= 0.01


def test_step_sizes_warm_up():
    update = make_update(warmup_updates=4, learning_rate=1.0, value_learning_rate=2.0)
    rates = []
    for index in range(5):
        metrics = update.update([sample(update.captioner, index, version=index)])
        rates.append((metrics["learner/learning_rate"], update.optimizer.param_groups[1]["lr"]))
    assert rates == [(0.25, 0.5), (0.5, 1.0), (0.75, 1.5), (1.0, 2.0), (1.0, 2.0)]


def test_each_clip_is_encoded_once_a_minibatch():
    update = make_update(num_epochs=1, minibatch_size=8)
    scored = sample(update.captioner, num_clips=4, group=4)
    update.captioner.clips_encoded.clear()
    update.update([scored])
    assert update.captioner.clips_encoded == [2, 2]


def test_a_token_counts_the_same_in_every_minibatch_however_uneven():
    update = make_update(num_epochs=1, minibatch_size=8)
    scored = sample(update.captioner, num_clips=3, group=4)  # minibatches of two clips and of one
    divisors, compute_gradient = [], update.compute_gradient

    def spy(experience, clips, *, num_units):
        divisors.append(num_units)
        return compute_gradient(experience, clips, num_units=num_units)

    update.compute_gradient = spy
    update.update([scored])
    assert divisors == [scored.rollouts.action_mask.sum() / 2] * 2


def test_reported_averages_are_means_over_all_tokens():
    update = make_update(num_epochs=1, minibatch_size=8, learning_rate=1e-12, value_learning_rate=1e-12)
    scored = sample(update.captioner, num_clips=3, group=4)
    captions = merge([scored]).captions
    with torch.no_grad():
        entropy = update.forward(captions).entropy[captions.action_mask].mean()
    assert update.update([scored])["learner/entropy"] == pytest.approx(float(entropy), rel=1e-5)


def test_every_epoch_update_and_seed_has_its_own_order_and_the_same_seed_the_same():
    def orders(seed):
        update, seen = make_update(seed=seed, minibatch_size=1, num_epochs=2, learning_rate=1e-12), []
        update.captioner.encode = lambda frames, mask: (
            seen.append(float(frames.sum())) or SmallCaptioner.encode(update.captioner, frames, mask)
        )
        for version in range(2):
            scored = sample(SmallCaptioner(), 0, version=version, num_clips=8)
            update.update([edit(scored, batch_index=version)])
        return [tuple(seen[first : first + 8]) for first in range(0, 32, 8)]

    assert orders(0) == orders(0)
    assert len({*orders(0), *orders(1)}) == 8
    assert len({frozenset(order) for order in orders(0)}) == 1


@pytest.mark.parametrize("kind", CRITIC_FREE)
def test_kinds_without_a_critic_leave_the_value_head_alone(kind):
    update = make_update(kind=kind)
    before = copy.deepcopy(update.captioner.value_head.state_dict())
    update.update([sample(update.captioner)])
    for name, value in update.captioner.value_head.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_clip_whose_greedy_caption_has_no_score_counts_as_if_its_rollouts_had_failed():
    failed = sample(SmallCaptioner(), failed=range(4, 8))
    greedy_scores = failed.greedy_scores.copy()
    greedy_scores[1] = np.nan
    lost = dataclasses.replace(sample(SmallCaptioner()), greedy_scores=greedy_scores)
    assert torch.equal(weights_after([lost], kind=AlgorithmKind.scst), weights_after([failed], kind=AlgorithmKind.scst))
    metrics = make_update(kind=AlgorithmKind.scst).update([lost])
    assert (metrics["rollout/failed"], metrics["rollout/num_rollouts"]) == (4, 12)
    assert metrics["rollout/greedy_reward_mean"] == pytest.approx(float(greedy_scores[[0, 2, 3]].mean()))


def test_scst_learns_from_single_captions_and_refuses_clips_without_a_greedy_one():
    scored = sample(SmallCaptioner(), group=1)
    scored = dataclasses.replace(scored, greedy_scores=scored.greedy_scores + 1)
    update = make_update(kind=AlgorithmKind.scst)
    before = weights_of(update)
    update.update([scored])
    assert not torch.equal(weights_of(update), before)
    with pytest.raises(RlcapError, match="scst compares captions with the greedy one of their clip"):
        make_update(kind=AlgorithmKind.scst).update([dataclasses.replace(scored, greedy_scores=None)])


@pytest.mark.parametrize("kind", OF_GROUPS)
def test_kinds_that_compare_captions_refuse_single_ones(kind):
    with pytest.raises(RlcapError, match=f"{kind.value} compares the captions of a clip"):
        make_update(kind=kind).update([sample(SmallCaptioner(), group=1)])


def test_ppo_refuses_a_captioner_without_a_value_head_and_rloo_does_not():
    captioner = SmallCaptioner()
    captioner.value_head.requires_grad_(requires_grad=False)
    with pytest.raises(RlcapError, match="ppo needs a trainable module named value_head"):
        make_update(captioner)
    make_update(captioner, kind=AlgorithmKind.rloo)


def test_frozen_parameters_stay_as_they_are():
    captioner = SmallCaptioner()
    captioner.audio.requires_grad_(requires_grad=False)
    before = captioner.audio.weight.clone()
    make_update(captioner).update([sample(captioner)])
    assert torch.equal(captioner.audio.weight, before)


@pytest.mark.parametrize("kl_in", KLPlace)
@pytest.mark.parametrize("kind", AlgorithmKind)
def test_a_rewarded_token_becomes_more_likely(kind, kl_in):
    def score(tokens):
        return float((tokens == 2).mean())

    update = make_update(kind=kind, kl_in=kl_in, kl_coef=0.01, learning_rate=3e-2)
    probe = merge([sample(update.captioner, 100, score=score)]).captions

    def log_prob():
        with torch.no_grad():
            output = update.forward(probe)
        return float(output.log_probs[probe.action_mask & (probe.tokens == 2)].mean())

    before = log_prob()
    for index in range(6):
        update.update([sample(update.captioner, index, version=index, score=score)])
    assert log_prob() > before + 0.1


def test_a_strong_penalty_pulls_the_policy_back_to_the_reference():
    settings = {"kl_coef": 5.0, "normalise_rewards": False, "kl_in": KLPlace.loss, "num_epochs": 8}
    update = make_update(**settings, kind=AlgorithmKind.rloo)
    scored = sample(update.captioner, score=lambda caption: 0.0 * len(caption))
    reference = scored.rollouts.log_probs - 0.3 * (scored.rollouts.tokens == 2)
    scored = edit(scored, ref_log_probs=reference.astype(np.float32))
    mask = scored.rollouts.action_mask & (scored.rollouts.tokens == 2)
    update.update([scored])
    with torch.no_grad():
        after = update.forward(merge([scored]).captions).log_probs.numpy()
    assert after[mask].mean() < scored.rollouts.log_probs[mask].mean() - 0.05


def test_metrics_are_finite_numbers():
    metrics = make_update().update([sample(SmallCaptioner())])
    assert all(math.isfinite(value) for value in metrics.values())
    assert {"learner/value_loss", "learner/explained_variance", "rollout/kl_to_reference"} <= metrics.keys()
    assert "learner/kl_loss" not in metrics
