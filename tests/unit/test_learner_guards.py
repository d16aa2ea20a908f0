"""What stops an update, what it says, and that nothing is spoilt by then."""

import math
import pickle

import numpy as np
import pytest
import torch
from small_captioner import SmallCaptioner, edit, make_update, sample, weights_of

from learner.batching import merge
from rlcap.captioners.captioner import Encoding
from rlcap.config.algorithm import KLPlace
from rlcap.errors import GuardError


def stopped(update, scored):
    """Return the guard's error; the weights must be as they were before, bit for bit."""
    before = weights_of(update)
    with pytest.raises(GuardError) as caught:
        update.update(scored)
    assert torch.equal(weights_of(update).nan_to_num(), before.nan_to_num())
    return caught.value


def far_from_reference(scored, nats_of_clips):
    """Shift the reference so that captions of each clip lie that many nats away from it."""
    rollouts = scored.rollouts
    lengths = rollouts.action_mask.sum(axis=1)
    shift = (np.array(nats_of_clips)[rollouts.clip_index] / lengths)[:, None]
    return edit(scored, ref_log_probs=(rollouts.log_probs - shift).astype(np.float32), clip_ids=("a", "b", "c", "d"))


def test_a_policy_far_from_its_reference_is_stopped_and_the_furthest_clips_are_named():
    update = make_update(max_kl=9.0, kl_coef=0.2)
    error = stopped(update, [far_from_reference(sample(update.captioner), [2.0, 30.0, 4.0, 8.0])])
    assert str(error) == (
        "the guard max_kl stopped update 1: the KL to the reference is 11 nats a caption, above 9, and highest on "
        "b (30), d (8), c (4) and 1 more"
    )
    assert (error.first_spoilt, error.remedy) == (0, "algorithm.kl_coef=0.4")
    assert make_update(max_kl=0.0).update([far_from_reference(sample(update.captioner), [99.0] * 4)])


def test_the_weights_that_sampled_the_captions_are_the_ones_called_spoilt():
    update = make_update(kl_target=1.0)
    for version in range(2):
        update.update([sample(update.captioner, version, version=version)])
    stale = sample(update.captioner, 2, version=1)
    error = stopped(update, [far_from_reference(stale, [60.0] * 4)])
    assert "stopped update 3" in str(error)
    assert error.first_spoilt == 1
    assert error.remedy == "algorithm.learning_rate=0.005", "a steered coefficient is not for the user to raise"


@pytest.mark.parametrize("kl", [49.9, 50.1])
def test_the_default_limit_on_kl_is_fifty_nats(kl):
    update = make_update()
    scored = far_from_reference(sample(update.captioner), [kl] * 4)
    if kl < 50:
        update.update([scored])
    else:
        assert "is 50.1 nats a caption, above 50" in str(stopped(update, [scored]))


def test_a_policy_that_always_says_the_same_is_stopped_before_its_first_step():
    captioner = SmallCaptioner()
    update = make_update(captioner, min_entropy=0.5, entropy_coef=0.02)
    update.update([sample(captioner, 0)])
    with torch.no_grad():
        captioner.vocabulary.weight *= 1e-3
        captioner.vocabulary.bias[3] = 6.0
    error = stopped(update, [edit(sample(captioner, 1, version=1), clip_ids=("a", "b", "c", "d"))])
    assert str(error).startswith("the guard min_entropy stopped update 2: the policy's entropy is 0.0")
    assert "nats a token, below 0.5, and lowest on " in str(error)
    assert (error.first_spoilt, error.remedy) == (1, "algorithm.entropy_coef=0.04")


def test_the_clips_with_the_lowest_entropy_come_first():
    captioner = SmallCaptioner()
    update = make_update(captioner, min_entropy=1e9)
    scored = sample(captioner)
    batch = merge([scored])
    with torch.no_grad():
        entropy = update.forward(batch.captions).entropy
    rows = [(batch.captions.clip_index == clip)[:, None] & batch.captions.action_mask for clip in range(4)]
    means = [float(entropy[chosen].mean()) for chosen in rows]
    order = np.argsort(means)[:3]
    assert str(stopped(update, [scored])).endswith(
        "lowest on " + ", ".join(f"{clip} ({means[clip]:.4g})" for clip in order) + " and 1 more"
    )


def test_a_clip_whose_own_loss_is_not_finite_is_found():
    update = make_update(minibatch_size=99, kl_in=KLPlace.loss)
    scored = sample(update.captioner)
    frames = scored.rollouts.features.frames.copy()
    frames[2] = np.nan
    features = type(scored.rollouts.features)(frames, scored.rollouts.features.frame_mask)
    error = stopped(update, [edit(scored, features=features, clip_ids=("a", "b", "c", "d"))])
    assert str(error) == (
        "the guard against numbers that are not finite stopped update 1: the loss is nan and the norm of its gradient "
        "nan, on c"
    )
    assert (error.first_spoilt, error.remedy) == (1, "algorithm.learning_rate=0.005")
    assert all(parameter.grad is None for parameter in update.captioner.parameters())


class Spike(torch.autograd.Function):
    """Changes no value, and makes the gradient of the marked clips infinite."""

    @staticmethod
    def forward(ctx, states, marked):
        ctx.save_for_backward(marked)
        return states.clone()

    @staticmethod
    def backward(ctx, gradient):
        (marked,) = ctx.saved_tensors
        return torch.where(marked[:, None, None], math.inf, gradient), None


def test_a_clip_whose_gradient_alone_is_not_finite_is_found():
    update = make_update(minibatch_size=99)
    scored = edit(sample(update.captioner), clip_ids=("a", "b", "c", "d"))
    marked_sum = torch.tensor(scored.rollouts.features.frames[1]).sum()
    encode = update.captioner.encode

    def encode_with_spike(frames, frame_mask):
        marked = torch.isclose(frames.sum(dim=(1, 2)), marked_sum)
        return Encoding(Spike.apply(encode(frames, frame_mask).states, marked))

    update.captioner.encode = encode_with_spike
    error = stopped(update, [scored])
    assert "the loss is nan" not in str(error)
    assert str(error).endswith("the norm of its gradient inf, on b")


def test_a_step_that_leaves_weights_that_are_not_finite_is_no_update():
    update = make_update(num_epochs=1, minibatch_size=99)
    update.optimizer.register_step_post_hook(lambda *_: update.captioner.vocabulary.bias.data.fill_(math.inf))
    with pytest.raises(GuardError, match=r"stopped update 1: a step of size 0\.01 left weights that are not"):
        update.update([sample(update.captioner)])
    assert update.policy_version == 0


def test_a_guards_error_crosses_processes_whole():
    error = pickle.loads(pickle.dumps(GuardError("stopped", first_spoilt=4, remedy="algorithm.kl_coef=1")))
    assert (str(error), error.first_spoilt, error.remedy) == ("stopped", 4, "algorithm.kl_coef=1")
