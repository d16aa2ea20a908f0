"""Checkpoints in other precisions, as people publish them, and one update of whatever is trained of them."""

import copy
import json
import shutil
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_captioners import PROMPTS
from tiny_models import ARCHITECTURES, save_tiny_model
from tiny_parts import save_clap, save_language_model

from actors.audio_cursor import CursorBatch
from actors.caption_actor import CaptionActor
from learner import saved_state
from learner.ppo_update import PPOUpdate
from learner.supervised import supervise
from rlcap.captioners.loading import adopt_captioner
from rlcap.captioners.master_weights import CPU
from rlcap.captioners.prefix_parts import build_around_language_model
from rlcap.config.algorithm import PPOConfig
from rlcap.config.captioner import CaptionerConfig, DecoderTuning, SamplingConfig, SftConfig
from rlcap.protocols import RewardClient
from rlcap.types import RewardBatch

PREFIX = "prefix"
FAMILIES = (*ARCHITECTURES, PREFIX)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PPO, LORA, SUPERVISED = "ppo", "lora", "supervised"
TUNINGS = (PPO, LORA, SUPERVISED)
LEARNING_RATE = 1e-5
CAPTIONS = (("a tree falls",), ("rain then",))


class EndlessClips:
    """Any position is one of these clips."""

    def __init__(self, clips):
        self._clips = clips

    def __len__(self):
        return len(self._clips)

    def read(self, positions):
        return [self._clips[position] for position in positions], []


class AnyReward(RewardClient):
    def score(self, request):
        scores = np.random.default_rng(0).normal(size=len(request.captions)).astype(np.float32)
        return RewardBatch(scores, np.zeros(len(scores), dtype=bool), (), "any")


def save_family(family, directory):
    """Write a small float32 checkpoint of a family; that of a prefix captioner stands around a Llama and a CLAP."""
    if family != PREFIX:
        return save_tiny_model(family, directory)
    llama, clap = save_language_model("llama", directory / "llama"), save_clap(directory / "of_clap")
    config = CaptionerConfig(language_model=str(llama), audio_encoder=str(clap), prefix_length=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build_around_language_model(config, encoder_channels=(4, 4, 8, 8), dropout=0.0).save(directory / "whole")
    return directory / "whole"


class Checkpoints:
    """Checkpoints of every family and precision below a folder, made when they are first asked for."""

    def __init__(self, root):
        self._root = root

    def find(self, family, dtype, *, held_in=None):
        """Return a checkpoint whose weights have the precision of `dtype`, stored in it or in `held_in`."""
        plain, made = self._root / family, self._root / f"{family}-{dtype}-{held_in or dtype}"
        if not plain.exists():
            save_family(family, plain)
        if not made.exists():
            whole = plain / "whole" if family == PREFIX else plain
            converted(whole, made, DTYPES[dtype], held_in=DTYPES[held_in or dtype])
        return made


def converted(directory, target, dtype, *, held_in):
    """Copy a checkpoint, the weights of transformers' models rounded to `dtype` and stored in `held_in`."""
    shutil.copytree(directory, target)
    for weights in target.rglob("model.safetensors"):
        state = load_file(weights)
        rounded = {name: one.to(dtype).to(held_in) if one.is_floating_point() else one for name, one in state.items()}
        save_file(rounded, weights, metadata={"format": "pt"})
        config = weights.with_name("config.json")
        config.write_text(json.dumps(_stored_in(json.loads(config.read_text()), held_in)))
    return target


def _stored_in(config, dtype):
    changed = {key: _stored_in(value, dtype) if isinstance(value, dict) else value for key, value in config.items()}
    return changed | {"dtype": str(dtype).removeprefix("torch.")} if "dtype" in changed else changed


def to_train(family, directory, tuning, device=CPU, **settings):
    """Take a checkpoint to be trained in one of the three ways."""
    decoder = DecoderTuning.lora if tuning == LORA else DecoderTuning.full
    config = CaptionerConfig(prompt=PROMPTS.get(family, ""), decoder=decoder, lora_rank=2, **settings)
    return adopt_captioner(directory, config, to_teach=True, device=device)


def rollouts_of(captioner, clips, *, batch_index=0, version=0):
    """Rollouts of an actor that was given this captioner."""
    policy, reference = copy.deepcopy(captioner), captioner.frozen_reference()
    sampling = SamplingConfig(max_new_tokens=6)
    actor = CaptionActor(EndlessClips(clips), policy, copy.deepcopy(reference), sampling, samples_per_clip=4)
    positions = tuple(range(len(clips)))
    return actor.caption(CursorBatch(batch_index, 0, positions, seed=batch_index), version, AnyReward()).scored


def ppo_update(captioner, **settings):
    config = PPOConfig(learning_rate=LEARNING_RATE, value_learning_rate=LEARNING_RATE, minibatch_size=4, **settings)
    return PPOUpdate(captioner, config, seed=0)


@dataclass(frozen=True)
class Moved:
    """What one update did to the weights that were trained, by name; both in float64."""

    before: dict
    after: dict
    with_gradient: dict
    dtypes: set

    @property
    def share(self):
        """Of the weights that got a gradient, those that moved."""
        moved = sum(
            int(((self.after[name] != self.before[name]) & had).sum()) for name, had in self.with_gradient.items()
        )
        return moved / sum(int(had.sum()) for had in self.with_gradient.values())

    @property
    def is_finite(self):
        return all(bool(one.isfinite().all()) for one in self.after.values())

    def step(self):
        """All that moved, in one vector."""
        return torch.cat([(self.after[name] - self.before[name]).reshape(-1) for name in sorted(self.after)])


def _note_gradient(had, parameter):
    had.logical_or_(parameter.grad != 0)


def move_once(captioner, tuning, clips):
    """Train for one update, and say what moved."""
    trained = {name: one for name, one in captioner.named_parameters() if one.requires_grad}
    had = {name: torch.zeros(one.shape, dtype=torch.bool) for name, one in trained.items()}
    for name, one in trained.items():
        one.register_post_accumulate_grad_hook(partial(_note_gradient, had[name]))
    before = {name: one.detach().double() for name, one in trained.items()}
    if tuning == SUPERVISED:
        settings = SftConfig(num_epochs=1, batch_size=1, learning_rate=LEARNING_RATE, weight_decay=0.0)
        supervise(captioner, captioner.features(clips), CAPTIONS, settings, 0, lambda *_: None)
    else:
        ppo_update(captioner).update([rollouts_of(captioner, clips)])
    after = {name: one.detach().double() for name, one in trained.items()}
    return Moved(before, after, had, {one.dtype for one in trained.values()})


def check_an_update(checkpoints, clips, family, dtype, tuning):
    """Hold an update to that of a twin, whose weights are the same and held in float32."""
    twin = move_once(to_train(family, checkpoints.find(family, dtype, held_in="float32"), tuning), tuning, clips)
    found = move_once(to_train(family, checkpoints.find(family, dtype), tuning), tuning, clips)
    assert found.dtypes == {torch.float32}
    assert found.is_finite
    assert found.share > 0.99
    step, expected = found.step(), twin.step()
    # What is frozen computes in bfloat16 on a CPU; Adam's first step is the sign of the gradient.
    rounds = dtype == "bfloat16" and tuning != PPO
    likeness = float(torch.cosine_similarity(step, expected, dim=0))
    assert likeness > (0.95 if rounds else 0.9999), f"{likeness:.5f}"
    if tuning == PPO or (tuning == SUPERVISED and not rounds):
        assert torch.equal(step, expected), "the same numbers all the way"


def check_resume(checkpoints, clips, directory, family, dtype, tuning):
    """Hold two updates to the same two with a checkpoint between them, read by a learner that was made anew."""
    source = checkpoints.find(family, dtype)
    whole = ppo_update(to_train(family, source, tuning))
    whole.update([rollouts_of(whole.captioner, clips)])
    saved_state.save(whole, directory)
    resumed = ppo_update(to_train(family, source, tuning))
    saved_state.load(resumed, directory)
    second = rollouts_of(whole.captioner, clips, batch_index=1, version=1)
    for update in (whole, resumed):
        update.update([second])
    state = resumed.captioner.state_dict()
    assert all(torch.equal(one, state[name]) for name, one in whole.captioner.state_dict().items())
    moments = [update.optimizer.state_dict()["state"] for update in (whole, resumed)]
    for place, moment in moments[0].items():
        assert all(torch.equal(one, moments[1][place][name]) for name, one in moment.items())
