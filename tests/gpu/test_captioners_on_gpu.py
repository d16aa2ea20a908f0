"""An actor and a learner on a GPU, and the weights between them, for checkpoints in every precision."""

import numpy as np
import pytest
import torch
from half_precision import DTYPES, AnyReward, Checkpoints, EndlessClips, ppo_update, to_train

from actors.audio_cursor import CursorBatch
from actors.caption_actor import CaptionActor
from learner.batching import merge
from rlcap.captioners.loading import load_captioner
from rlcap.captioners.weights import load_into, publish
from rlcap.config.captioner import SamplingConfig

pytestmark = pytest.mark.gpu
FAMILIES = ("whisper", "speech_gpt2", "qwen2_audio", "prefix")
EXACT, ROUNDED = 1e-3, 0.5
"""How far log-probs of actor and learner may lie apart: both all in float32, or anything of them in less."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("precisions"))


@pytest.mark.parametrize("tuning", ["ppo", "lora"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_on_a_gpu_reaches_the_actor(checkpoints, make_clips, device, family, dtype, tuning):
    directory, clips = checkpoints.find(family, dtype), make_clips(1.0, 0.5)
    learner = to_train(family, directory, tuning, device=device).to(device)
    policy, frozen = (to_train(family, directory, tuning, device=device) for _ in range(2))
    actor = CaptionActor(
        EndlessClips(clips), policy, frozen.frozen_reference(), SamplingConfig(max_new_tokens=6), 4, device=device
    )
    close = EXACT if {computes_in(actor), DTYPES[dtype]} == {torch.float32} else ROUNDED
    before = caption(actor, 0)
    update = ppo_update(learner)
    assert largest_gap(update, before) < close
    metrics = update.update([before])
    assert all(np.isfinite(value) for value in metrics.values())
    masters = [one for one in learner.parameters() if one.requires_grad]
    assert {one.dtype for one in masters} == {torch.float32}
    assert all(one.isfinite().all() for one in masters)
    load_into(actor.policy, publish(learner, trainable_only=True))
    assert largest_gap(update, caption(actor, 1)) < close


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_go_from_a_gpu_to_the_cpu_and_back_to_the_bit(checkpoints, device, dtype):
    directory = checkpoints.find("whisper", dtype)
    learner = to_train("whisper", directory, "ppo", device=device).to(device)
    with torch.no_grad():
        for one in learner.parameters():
            one.mul_(1.001)
    here = to_train("whisper", directory, "ppo")
    load_into(here, publish(learner, trainable_only=True))
    for name, one in here.named_parameters():
        if one.requires_grad:
            assert torch.equal(one, learner.get_parameter(name).cpu()), name
    back = load_captioner(directory, device).to(device)
    load_into(back, publish(here, trainable_only=True))
    for name, one in here.named_parameters():
        if one.requires_grad:
            expected = one.to(device, back.get_parameter(name).dtype)
            assert torch.equal(back.get_parameter(name), expected), name


def caption(actor, number):
    return actor.caption(CursorBatch(number, 0, (0, 1), seed=number), number, AnyReward()).scored


def computes_in(actor):
    return next(actor.policy.value_head.parameters()).dtype


def largest_gap(update, scored):
    """The largest difference of a token's log-prob, between the actor that drew it and the learner."""
    batch = merge([scored])
    with torch.no_grad():
        found = update.forward(batch.captions.to(next(update.captioner.parameters()).device)).log_probs.cpu()
    return float((found - batch.log_probs)[batch.captions.action_mask].abs().max())
