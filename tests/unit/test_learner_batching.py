import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.batching import Experience, Targets, deal_clips, merge, take_clips, take_minibatch
from rlcap.errors import RlcapError
from rlcap.types import PolicyFeatures, RewardBatch, RolloutBatch, ScoredRollouts


def make_scored(seed=0, *, num_clips=2, group=2, num_tokens=3, num_frames=4, failed=(), version="v1", temperature=1.0):
    """Whole groups with distinct numbers everywhere; read-only, as Ray hands arrays out."""
    rng = np.random.default_rng(seed)
    rows = num_clips * group
    lengths = np.append(rng.integers(1, num_tokens + 1, size=rows - 1), num_tokens)

    def floats():
        return rng.normal(size=(rows, num_tokens)).astype(np.float32)

    rollouts = RolloutBatch(
        clip_ids=tuple(f"{seed}-{clip}" for clip in range(num_clips)),
        features=PolicyFeatures(
            frames=rng.normal(size=(num_clips, num_frames, 2)).astype(np.float32),
            frame_mask=np.ones((num_clips, num_frames), dtype=bool),
        ),
        clip_index=np.repeat(np.arange(num_clips), group),
        tokens=rng.integers(0, 9, size=(rows, num_tokens)),
        action_mask=np.arange(num_tokens) < lengths[:, None],
        log_probs=floats(),
        ref_log_probs=floats(),
        values=floats(),
        truncated=rng.random(rows) < 0.5,
        captions=("",) * rows,
        temperature=temperature,
        policy_version=seed,
        batch_index=seed,
    )
    marks = np.isin(np.arange(rows), failed)
    scores = np.where(marks, np.nan, rng.normal(size=rows)).astype(np.float32)
    scored = ScoredRollouts(rollouts, RewardBatch(scores, marks, ("timeout",) if failed else (), version))
    for value in (rollouts, rollouts.features, scored.rewards):
        for field in dataclasses.fields(value):
            array = getattr(value, field.name)
            if isinstance(array, np.ndarray):
                array.setflags(write=False)
    return scored


def replace_rollouts(scored, **changes):
    return dataclasses.replace(scored, rollouts=dataclasses.replace(scored.rollouts, **changes))


def test_merged_rows_keep_their_own_clip_and_numbers():
    first, second = make_scored(1, num_tokens=3, num_frames=2), make_scored(2, num_clips=3, num_tokens=5, num_frames=4)
    batch = merge([first, second])
    captions = batch.captions
    assert captions.clip_index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert captions.tokens.shape == (10, 5)
    assert captions.frames.shape == (5, 4, 2)
    assert not captions.frame_mask[:2, 2:].any()
    assert not captions.action_mask[:4, 3:].any()
    assert np.array_equal(captions.tokens[:4, :3], first.rollouts.tokens)
    assert np.array_equal(batch.log_probs[4:], second.rollouts.log_probs)
    assert np.array_equal(captions.frames[2:], second.rollouts.features.frames)
    assert batch.policy_version.tolist() == [1] * 4 + [2] * 6


def test_rollouts_without_a_score_are_left_out_and_counted():
    scored = make_scored(failed=(1, 2))
    batch = merge([scored])
    assert batch.num_failed == 2
    assert np.array_equal(batch.scores, scored.rewards.scores[[0, 3]])
    assert batch.captions.clip_index.tolist() == [0, 1]
    assert batch.largest_group == 2


def test_an_update_whose_every_reward_failed_is_empty_but_sound():
    batch = merge([make_scored(failed=(0, 1, 2, 3))])
    assert (len(batch.scores), batch.num_failed) == (0, 4)
    assert deal_clips(batch.captions.clip_index, 2, [0]) == []


def test_merged_tensors_are_writable_and_share_no_memory_with_their_source():
    scored = make_scored()
    batch = merge([scored])
    batch.log_probs.add_(1.0)
    batch.captions.frames.add_(1.0)
    again = merge([scored])
    assert torch.equal(
        batch.log_probs, torch.where(batch.captions.action_mask, again.log_probs + 1, again.log_probs + 1)
    )
    assert not torch.equal(batch.captions.frames, again.captions.frames)


def test_two_reward_versions_in_one_update_are_refused():
    with pytest.raises(RlcapError, match="share their reward version, got v1, v2"):
        merge([make_scored(1), make_scored(2, version="v2")])


def test_two_temperatures_in_one_update_are_refused():
    with pytest.raises(RlcapError, match=r"share their sampling temperature, got 0\.7, 1\.0"):
        merge([make_scored(1), make_scored(2, temperature=0.7)])


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(RlcapError, match="at least one batch"):
        merge([])


def test_a_score_that_is_nan_but_not_marked_as_failed_is_refused():
    scored = make_scored(7)
    scores = scored.rewards.scores.copy()
    scores[0] = math.nan
    with pytest.raises(RlcapError, match="rollout batch 7 has a score that is not a finite number"):
        merge([dataclasses.replace(scored, rewards=dataclasses.replace(scored.rewards, scores=scores))])


@pytest.mark.parametrize("name", ["log_probs", "ref_log_probs", "values"])
def test_numbers_that_are_not_finite_are_refused_on_tokens_and_welcome_in_padding(name):
    scored = make_scored(3)
    array, mask = getattr(scored.rollouts, name).copy(), scored.rollouts.action_mask
    assert not mask.all()
    array[~mask] = math.nan
    merge([replace_rollouts(scored, **{name: array})])
    array[mask] = math.nan
    with pytest.raises(RlcapError, match=f"rollout batch 3 has {name} that are not finite"):
        merge([replace_rollouts(scored, **{name: array})])


def test_a_caption_without_a_token_is_refused():
    scored = make_scored(3)
    with pytest.raises(RlcapError, match="a caption without a token"):
        merge([replace_rollouts(scored, action_mask=np.zeros_like(scored.rollouts.action_mask))])


def test_greedy_scores_that_fit_no_clip_or_are_infinite_are_refused():
    scored = make_scored(3)
    num_clips = len(scored.rollouts.clip_ids)
    with pytest.raises(RlcapError, match=f"rollout batch 3 has {num_clips} clips but {num_clips + 1} greedy scores"):
        merge([dataclasses.replace(scored, greedy_scores=np.zeros(num_clips + 1, dtype=np.float32))])
    with pytest.raises(RlcapError, match="rollout batch 3 has a greedy caption whose score is infinite"):
        merge([dataclasses.replace(scored, greedy_scores=np.full(num_clips, np.inf, dtype=np.float32))])


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 12), st.integers(0, 99))
def test_every_clip_with_rollouts_is_dealt_once_and_no_minibatch_is_too_large(clips, minibatch_size, seed):
    clip_index = torch.tensor(clips, dtype=torch.int64)
    dealt = [minibatch.tolist() for minibatch in deal_clips(clip_index, minibatch_size, [seed])]
    assert sorted(clip for minibatch in dealt for clip in minibatch) == sorted(set(clips))
    for minibatch in dealt:
        assert len(minibatch) == 1 or sum(clips.count(clip) for clip in minibatch) <= minibatch_size


def test_the_deal_depends_on_every_seed_and_on_nothing_else():
    clip_index = torch.arange(64)

    def order(*seeds):
        return torch.cat(deal_clips(clip_index, 8, seeds)).tolist()

    assert order(0, 1, 2) == order(0, 1, 2)
    assert len({tuple(order(*seeds)) for seeds in [(0, 1, 2), (0, 1, 3), (0, 2, 2), (1, 1, 2)]}) == 4


def test_a_minibatch_holds_the_features_of_its_clips_once_and_its_rows_point_to_them():
    batch = merge([make_scored(1, num_clips=4, num_tokens=6)])
    taken = take_clips(batch.captions, torch.tensor([3, 1]))
    assert torch.equal(taken.frames, batch.captions.frames[[3, 1]])
    assert taken.clip_index.tolist() == [1, 1, 0, 0]
    length = int(batch.captions.action_mask[[2, 3, 6, 7]].sum(dim=1).max())
    assert torch.equal(taken.tokens, batch.captions.tokens[[2, 3, 6, 7], :length])


def test_targets_stay_with_their_captions():
    batch = merge([make_scored(1, num_clips=3)])
    numbers = [torch.randn(batch.log_probs.shape) for _ in range(6)]
    minibatch = take_minibatch(Experience(batch.captions, Targets(*numbers)), torch.tensor([2]))
    length = minibatch.captions.tokens.shape[1]
    for field, whole in zip(dataclasses.fields(Targets), numbers, strict=True):
        assert torch.equal(getattr(minibatch.targets, field.name), whole[4:6, :length])
