"""From scores to advantages against a slow oracle of plain Python floats."""

import math
from statistics import fmean, pstdev, stdev

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.batching import Captions, LearnerBatch
from learner.experience import compute_advantages, describe
from learner.normaliser import RewardNormaliser
from rlcap.config.algorithm import AlgorithmKind, KLPlace, PPOConfig

GROUP = 3


def make_batch(seed, num_clips=2, num_tokens=4, *, version="v1"):
    rng = np.random.default_rng(seed)
    rows = num_clips * GROUP
    mask = torch.tensor(np.arange(num_tokens) < rng.integers(1, num_tokens + 1, size=rows)[:, None])

    def numbers():
        return torch.where(mask, torch.tensor(rng.normal(size=mask.shape)), math.nan)

    return LearnerBatch(
        captions=Captions(
            frames=torch.zeros(num_clips, 1, 1),
            frame_mask=torch.ones(num_clips, 1, dtype=torch.bool),
            clip_index=torch.arange(num_clips).repeat_interleave(GROUP),
            tokens=torch.zeros(mask.shape, dtype=torch.int64),
            action_mask=mask,
            temperature=1.0,
        ),
        clip_ids=tuple(str(clip) for clip in range(num_clips)),
        log_probs=numbers(),
        ref_log_probs=numbers(),
        values=numbers(),
        scores=torch.tensor(rng.normal(3.0, 2.0, size=rows)),
        greedy_scores=torch.tensor(rng.normal(2.5, 1.0, size=num_clips)).repeat_interleave(GROUP),
        truncated=torch.arange(rows) == 0,
        policy_version=torch.zeros(rows, dtype=torch.int64),
        reward_version=version,
        num_failed=2,
        sampled_in_float32=torch.ones(rows, dtype=torch.bool),
        largest_group=GROUP,
    )


def slow_scores(scores, config, seen):
    if config.normalise_rewards:
        scores = [(score - fmean(seen)) / (pstdev(seen) + 1e-6) for score in scores]
    bound = config.reward_clip or math.inf
    return [min(max(score, -bound), bound) for score in scores]


def slow_advantages(batch, config):
    """Advantages of valid tokens, row after row."""
    mask = batch.captions.action_mask
    seen = batch.scores.tolist()
    scores, greedy = (slow_scores(one.tolist(), config, seen) for one in (batch.scores, batch.greedy_scores))
    penalty = config.kl_coef * (config.kl_in is KLPlace.reward)
    rows = []
    for row, score in enumerate(scores):
        pairs = zip(batch.log_probs[row][mask[row]].tolist(), batch.ref_log_probs[row][mask[row]].tolist(), strict=True)
        rewards = [-penalty * (new - ref) for new, ref in pairs]
        rewards[-1] += score
        rows.append(rewards)
    if config.kind is AlgorithmKind.ppo:
        return slow_gae(rows, batch, config)
    totals, result = [sum(rewards) for rewards in rows], []
    for row, rewards in enumerate(rows):
        first = row - row % GROUP
        group = totals[first : first + GROUP]
        others = [one for index, one in enumerate(group) if index != row % GROUP]
        if config.kind is AlgorithmKind.scst:
            advantage = totals[row] - greedy[row]
        elif config.kind is AlgorithmKind.rloo:
            advantage = totals[row] - fmean(others)
        else:
            advantage = (totals[row] - fmean(group)) / (stdev(group) + 1e-4)
        result += [advantage] * len(rewards)
    return result


def slow_gae(rows, batch, config):
    result = []
    for row, rewards in enumerate(rows):
        values = [*batch.values[row][batch.captions.action_mask[row]].tolist(), 0.0]
        advantage, backwards = 0.0, []
        for step in reversed(range(len(rewards))):
            delta = rewards[step] + config.gamma * values[step + 1] - values[step]
            advantage = delta + config.gamma * config.gae_lambda * advantage
            backwards.append(advantage)
        result += reversed(backwards)
    if config.whiten_advantages:
        result = [(one - fmean(result)) / math.sqrt(pstdev(result) ** 2 + 1e-8) for one in result]
    return result


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(AlgorithmKind),
    st.sampled_from(KLPlace),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.7, 10.0]),
    st.sampled_from([0.0, 0.5]),
)
def test_advantages_match_the_slow_oracle_under_all_settings(
    seed, kind, kl_in, normalise, whiten, reward_clip, advantage_clip
):
    config = PPOConfig(
        kind=kind,
        kl_in=kl_in,
        kl_coef=0.3,
        gamma=0.9,
        normalise_rewards=normalise,
        whiten_advantages=whiten,
        reward_clip=reward_clip,
        advantage_clip=advantage_clip,
    )
    batch = make_batch(seed)
    learned = compute_advantages(batch, config, RewardNormaliser())
    mask = batch.captions.action_mask
    bound = advantage_clip or math.inf
    expected = [min(max(advantage, -bound), bound) for advantage in slow_advantages(batch, config)]
    assert learned.advantages[mask].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert (learned.advantages[~mask] == 0).all()


def test_returns_are_neither_whitened_nor_clipped():
    batch = make_batch(0)
    plain, whitened = (
        compute_advantages(batch, PPOConfig(**settings), RewardNormaliser())
        for settings in ({"whiten_advantages": False}, {"advantage_clip": 0.1})
    )
    assert torch.equal(plain.returns, whitened.returns)
    assert not torch.equal(plain.advantages, whitened.advantages)


def test_scores_are_normalised_by_all_scores_of_their_version_and_no_other():
    normaliser, config = RewardNormaliser(), PPOConfig()
    for seed, version in [(0, "v1"), (1, "v2"), (2, "v2")]:
        compute_advantages(make_batch(seed, version=version), config, normaliser)
    scores = [*make_batch(1).scores.tolist(), *make_batch(2).scores.tolist()]
    assert normaliser.mean == pytest.approx(fmean(scores))
    assert normaliser.std == pytest.approx(pstdev(scores))


def test_the_description_counts_valid_tokens_only():
    batch, config = make_batch(5), PPOConfig()
    facts = describe(batch, compute_advantages(batch, config, RewardNormaliser()), config)
    mask = batch.captions.action_mask
    log_ratios = (batch.log_probs - batch.ref_log_probs)[mask].tolist()
    assert facts["rollout/num_tokens"] == len(log_ratios)
    assert facts["rollout/failed"] == 2
    assert facts["rollout/reward_mean"] == pytest.approx(fmean(batch.scores.tolist()))
    assert facts["rollout/kl_to_reference"] == pytest.approx(sum(log_ratios) / 6)
    assert facts["rollout/caption_length"] == pytest.approx(len(log_ratios) / 6)
    assert facts["rollout/truncated"] == pytest.approx(1 / 6)
    assert facts["learner/advantage_mean"] == pytest.approx(0, abs=1e-9)
    assert facts["learner/advantage_std"] == pytest.approx(1, abs=1e-6)
    assert math.isfinite(facts["learner/explained_variance"])
