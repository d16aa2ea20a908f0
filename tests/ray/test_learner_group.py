"""The learner under RLlib's LearnerGroup: in process, in one remote process, and data-parallel in two.

Also what rlcap relies on in RLlib, so that an upgrade that changes it is seen.
"""

import os
import signal
import sys
import time

import numpy as np
import pytest
import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from torch import nn

from learner import saved_state
from learner.batching import Experience, Targets, merge
from learner.group import hold_learners, learner_weights, load_learners, update_learners
from learner.objective import AVERAGES
from learner.ppo_learner import CaptionPPOLearner, learner_settings
from learner.ppo_update import PPOUpdate
from learner.rl_module import CAPTIONS, WEIGHTS, CaptionRLModule, captioner_module_spec
from rlcap.captioners.captioner import Encoding, PolicyOutput
from rlcap.captioners.weights import load_into
from rlcap.config.algorithm import PPOConfig
from rlcap.errors import ActorLostError, CheckpointError, GuardError, RlcapError
from rlcap.types import PolicyFeatures, RewardBatch, RolloutBatch, ScoredRollouts

VOCABULARY, WIDTH, MELS = 7, 6, 3
PPO = PPOConfig(learning_rate=1e-2, value_learning_rate=1e-2, minibatch_size=8)

# Workers cannot import this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class SmallCaptioner(nn.Module):
    """Predicts each token from the clip and the token before it; a frozen layer is in bfloat16."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.audio = nn.Linear(MELS, WIDTH)
        self.token = nn.Embedding(VOCABULARY, WIDTH)
        self.coarse = nn.Linear(WIDTH, WIDTH).to(torch.bfloat16).requires_grad_(requires_grad=False)
        self.vocabulary = nn.Linear(WIDTH, VOCABULARY)
        self.value_head = nn.Linear(WIDTH, 1)

    def encode(self, frames, frame_mask):
        total = torch.where(frame_mask[..., None], frames, 0.0).sum(dim=1)
        return Encoding(self.audio(total / frame_mask.sum(dim=1, keepdim=True))[:, None])

    def scoring_parameters(self):
        return self.parameters()

    def log_probs(self, encoding, clip_index, tokens, action_mask, temperature, support_sizes=None):
        known = torch.where(action_mask, tokens, 0)
        before = nn.functional.pad(self.token(known[:, :-1]), (0, 0, 1, 0))
        hidden = torch.tanh(encoding.states[clip_index] + before)
        hidden = hidden + 0.1 * self.coarse(hidden.to(torch.bfloat16)).float()
        log_softmax = (self.vocabulary(hidden) / temperature).log_softmax(-1)
        return PolicyOutput(
            log_probs=log_softmax.gather(-1, known[..., None]).squeeze(-1),
            values=self.value_head(hidden.detach()).squeeze(-1),
            entropy=-(log_softmax.exp() * log_softmax).sum(-1),
        )


class SmallCaptionRLModule(CaptionRLModule):
    def load(self, checkpoint, device):
        assert checkpoint == "small"
        return SmallCaptioner()


def sample(batch_index, *, version=0, num_clips=3, group=4, num_tokens=5):
    rng = np.random.default_rng(batch_index)
    rows = num_clips * group
    shape = (rows, num_tokens)
    lengths = rng.integers(1, num_tokens + 1, size=rows)
    rollouts = RolloutBatch(
        clip_ids=tuple(str(clip) for clip in range(num_clips)),
        features=PolicyFeatures(
            rng.normal(size=(num_clips, 5, MELS)).astype(np.float32), np.ones((num_clips, 5), dtype=bool)
        ),
        clip_index=np.repeat(np.arange(num_clips), group),
        tokens=rng.integers(0, VOCABULARY, size=shape),
        action_mask=np.arange(num_tokens) < lengths[:, None],
        log_probs=rng.normal(-2, 0.1, size=shape).astype(np.float32),
        ref_log_probs=rng.normal(-2, 0.1, size=shape).astype(np.float32),
        values=rng.normal(size=shape).astype(np.float32),
        truncated=np.zeros(rows, dtype=bool),
        captions=("",) * rows,
        temperature=0.8,
        policy_version=version,
        batch_index=batch_index,
    )
    rewards = RewardBatch(rng.normal(size=rows).astype(np.float32), np.zeros(rows, dtype=bool), (), "v1")
    return ScoredRollouts(rollouts, rewards)


def updates(num_updates):
    """Two batches an update, with a number of clips that two learners cannot share evenly."""
    return [
        [sample(2 * version, version=version), sample(2 * version + 1, version=version, num_clips=4, num_tokens=7)]
        for version in range(num_updates)
    ]


def weights_of(captioner):
    return {name: value.detach().float() for name, value in captioner.state_dict().items()}


def weights_in(result):
    captioner = SmallCaptioner()
    load_into(captioner, result.weights)
    return weights_of(captioner)


def assert_close(one, other, tolerance):
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=tolerance)


def build_group(num_learners, ppo=PPO):
    config = (
        AlgorithmConfig()
        .training(learner_class=CaptionPPOLearner, learner_config_dict=learner_settings(ppo, seed=0))
        .learners(num_learners=num_learners, num_cpus_per_learner=0.5)
    )
    return LearnerGroup(config=config, module_spec=captioner_module_spec("small", SmallCaptionRLModule))


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    yield
    ray.shutdown()


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["in process", "one remote", "two remote"])
def group(request):
    group = build_group(request.param)
    yield group
    group.shutdown()


def put(scored):
    return [ray.put(one) for one in scored]


def test_every_group_learns_what_a_plain_update_learns_and_goes_on_from_a_checkpoint(group, tmp_path):
    plain = PPOUpdate(SmallCaptioner(), PPO, seed=0)
    assert_close(weights_in(learner_weights(group)), weights_of(plain.captioner), 0.0)
    for scored in updates(20):
        expected, result = plain.update(scored), update_learners(group, put(scored))
        assert result.policy_version == plain.policy_version
        assert [used.batch_index for used in result.used] == [one.rollouts.batch_index for one in scored]
        assert result.metrics["learner/policy_loss"] == pytest.approx(expected["learner/policy_loss"], abs=1e-4)
        # Sums over learners round otherwise, and Adam adds that up: a hundredth of a step is left for it.
        assert_close(weights_in(result), weights_of(plain.captioner), 0.01 * PPO.learning_rate)
    held, sent, after_twenty = hold_learners(group), ray.put(result), weights_in(result)

    straight = weights_in(update_learners(group, put(updates(21)[20])))
    assert_close(weights_in(ray.get(sent)), after_twenty, 0.0)  # what was sent does not follow the learner,
    saved_state.write(held, tmp_path)  # and neither does what is held for a checkpoint
    assert_close(weights_in(load_learners(group, tmp_path)), after_twenty, 0.0)
    resumed = update_learners(group, put(updates(21)[20]))
    assert_close(weights_in(resumed), straight, 0.0)
    assert resumed.policy_version == 21
    assert any(not torch.equal(value, after_twenty[name]) for name, value in straight.items())


def test_all_learners_of_a_group_hold_the_same_bits_also_in_bfloat16(group):
    states = [
        result.get()[WEIGHTS]
        for result in group.foreach_learner(lambda learner: learner.module[DEFAULT_MODULE_ID].get_state())
    ]
    assert len(states) == max(1, len(group))
    for state in states:
        assert state.buffers.keys() == {"float32", "bfloat16"}
        for name, buffer in state.buffers.items():
            assert np.array_equal(buffer, states[0].buffers[name])


def test_an_older_state_of_the_group_comes_back_whole(group):
    """RLlib keeps newer weights when it is given an older state, unless the learner leaves its sequence number at 0."""
    before, state = learner_weights(group), group.get_state()
    version, weights = before.policy_version, weights_in(before)
    update_learners(group, put([sample(100 + len(group), version=version)]))
    group.set_state(state)
    after = learner_weights(group)
    assert after.policy_version == version
    assert_close(weights_in(after), weights, 0.0)
    update_learners(group, put([sample(100 + len(group), version=version)]))  # the ledger went back, too


def test_rllibs_own_update_call_reaches_the_learner(group):
    """RLlib deals references out in equal consecutive parts; in process it resolves them first."""
    version = learner_weights(group).policy_version
    refs = put([sample(200, version=version), sample(201, version=version)])
    results = group.update(batch_refs=refs * max(1, len(group)))
    assert [result.policy_version for result in results] == [version + 1] * max(1, len(group))
    assert [result.weights is None for result in results] == [rank > 0 for rank in range(len(results))]


def test_arrays_out_of_the_object_store_are_shared_and_an_update_leaves_them_alone(group):
    scored = sample(300, version=learner_weights(group).policy_version)
    (ref,) = put([scored])
    stored = ray.get(ref).rollouts.log_probs
    assert not stored.flags.writeable
    assert np.shares_memory(stored, ray.get(ref).rollouts.log_probs)
    update_learners(group, [ref])
    assert np.array_equal(stored, scored.rollouts.log_probs)


def test_rllibs_loss_interface_gives_the_loss_of_the_update(group):
    def losses(learner):
        experience = experience_of(sample(400))
        output = learner.module[DEFAULT_MODULE_ID].forward_train({CAPTIONS: experience.captions})
        loss = learner.compute_loss_for_module(module_id="", config=None, batch=experience, fwd_out=output)
        averages = learner.ppo_update.objective(PolicyOutput(**output), experience).averages
        return float(loss.detach()), float(averages[AVERAGES.index("loss")])

    for result in group.foreach_learner(losses):
        loss, expected = result.get()
        assert loss == pytest.approx(expected)


def experience_of(scored):
    batch = merge([scored])
    zeros = torch.zeros_like(batch.log_probs)
    return Experience(
        batch.captions, Targets(batch.log_probs, batch.log_probs, batch.ref_log_probs, batch.values, zeros + 1, zeros)
    )


@ray.remote(num_cpus=0)
class Holder:
    """Owns what it puts: that is lost with it."""

    def hold(self, scored):
        return [ray.put(scored)]


def wait_until_lost(ref):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            ray.get(ref, timeout=5)
        except ray.exceptions.ObjectLostError:
            return
    raise AssertionError("it is still there")


def test_lost_rollouts_are_named_and_nothing_is_trained_until_all_are_there(group):
    before = learner_weights(group)
    weights = weights_in(before)
    holder = Holder.remote()
    (one,) = put([sample(400, version=before.policy_version)])
    (lost,) = ray.get(holder.hold.remote(sample(401, version=before.policy_version)))
    ray.kill(holder)
    wait_until_lost(lost)
    refused = update_learners(group, [one, lost])
    assert (refused.missing, refused.policy_version, refused.weights) == ((1,), before.policy_version, None)
    assert_close(weights_in(learner_weights(group)), weights, 0.0)
    again = put([sample(401, version=before.policy_version)])
    assert update_learners(group, [one, *again]).policy_version == before.policy_version + 1


def test_a_refused_update_says_why_and_a_group_that_lost_learners_never_trains_on(group, tmp_path):
    """RLlib drops a learner that raised from its list; later calls then return nothing at all."""
    fresh = put([sample(500, version=learner_weights(group).policy_version)])
    update_learners(group, fresh)
    if len(group) == 2:
        pytest.skip("the last test needs both learners")
    with pytest.raises(RlcapError, match="batch 500 came to the learner twice"):
        update_learners(group, fresh)
    if len(group) == 1:
        with pytest.raises(ActorLostError, match="0 of 1 learners answered"):
            update_learners(group, put([sample(501)]))
        assert group.update(batch_refs=put([sample(501)])) == []
    else:
        with pytest.raises(CheckpointError, match=r"learner\.pt is missing"):
            load_learners(group, tmp_path)


def test_a_silent_learner_is_named():
    group = build_group(1)
    (process_id,) = [result.get() for result in group.foreach_learner(lambda _: os.getpid())]
    os.kill(process_id, signal.SIGSTOP)
    with pytest.raises(ActorLostError, match=r"0 of 1 learners answered \(learner 0 gave no answer within 1 s"):
        update_learners(group, put([sample(0)]), timeout_s=1.0)
    os.kill(process_id, signal.SIGKILL)
    group.shutdown()


def test_the_error_of_a_guard_comes_whole_from_another_process():
    group = build_group(1, PPOConfig(min_entropy=1e9))
    with pytest.raises(GuardError) as caught:
        update_learners(group, put([sample(0)]))
    group.shutdown()
    assert str(caught.value).startswith("the guard min_entropy stopped update 1: ")
    assert (caught.value.first_spoilt, caught.value.remedy) == (0, "algorithm.entropy_coef=0.01")


def test_a_learner_that_dies_ends_the_update_of_the_others(group):
    if len(group) < 2:
        pytest.skip("needs two learners")

    def die_in_next_update(learner):
        if learner.ppo_update._collective.rank == 1:
            learner.ppo_update.captioner.encode = lambda *_: os._exit(1)

    group.foreach_learner(die_in_next_update)
    version = learner_weights(group).policy_version
    with pytest.raises(ActorLostError, match="0 of 2 learners answered"):
        update_learners(group, put([sample(600, version=version)]))
