"""How fast the learner updates, beside a plain PyTorch update on the same captions, in turns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from actors.sampler import sample_captions
from learner.batching import Captions, merge
from learner.ppo_update import PPOUpdate
from rlcap.bench.hardware import Hardware, describe_hardware
from rlcap.bench.policies import (
    MAX_TOKENS,
    NUM_CLIPS,
    NUM_FRAMES,
    PREFIX_LENGTH,
    RAGGED,
    SAMPLES_PER_CLIP,
    SIZES,
    WHOLE,
    PolicySize,
    Workload,
    bench_device,
    bench_policy,
    seconds,
)
from rlcap.captioners.learning_linears import learning_linears
from rlcap.captioners.packing import lay_out
from rlcap.captioners.prefix import PrefixCaptioner
from rlcap.config.algorithm import PPOConfig
from rlcap.pipeline.progress import progress_bar
from rlcap.types import PolicyFeatures, RewardBatch, RolloutBatch, ScoredRollouts


@dataclass(frozen=True, slots=True)
class LearnerSpeed:
    """One size of policy under one workload; medians of the rounds."""

    policy: str
    workload: str
    tokens_per_s: float
    plain_tokens_per_s: float
    share_of_plain_update: float
    """Speed over that of the plain update; above 1 where padding is left out."""
    outside_model: float
    """Share of the update's time that is neither forward nor backward pass nor optimiser step."""
    padding: float
    """Share of the positions in the learner's passes that hold no token."""
    padding_of_plain: float


@dataclass(frozen=True, slots=True)
class LearnerBench:
    """All figures."""

    hardware: Hardware
    num_threads: int
    num_captions: int
    speeds: tuple[LearnerSpeed, ...]

    def as_json(self) -> dict[str, object]:
        """Plain values; `share_of_plain_update` is that of captions of full length, by policy."""
        whole = {one.policy: one.share_of_plain_update for one in self.speeds if one.workload == WHOLE.name}
        ragged = {one.policy: one.share_of_plain_update for one in self.speeds if one.workload == RAGGED.name}
        return {**asdict(self), "share_of_plain_update": whole, "share_of_plain_update_ragged": ragged}


def bench_learner(num_rounds: int) -> LearnerBench:
    """Measure every size of policy on the first GPU, or on the CPU's threads."""
    device = bench_device()
    settings = [(size, workload) for size in SIZES for workload in (WHOLE, RAGGED)]
    speeds = []
    with progress_bar("learner, plain update", len(settings)) as advance:
        for size, workload in settings:
            speeds.append(_measure(size, workload, device, num_rounds))
            advance(f"{size.name}: {speeds[-1].share_of_plain_update:.0%}")
    return LearnerBench(describe_hardware(), torch.get_num_threads(), NUM_CLIPS * SAMPLES_PER_CLIP, tuple(speeds))


def _measure(size: PolicySize, workload: Workload, device: torch.device, num_rounds: int) -> LearnerSpeed:
    captioner, plain = (bench_policy(size, workload, device) for _ in range(2))
    scored = _rollouts(captioner)
    config = PPOConfig(num_epochs=1, minibatch_size=NUM_CLIPS * SAMPLES_PER_CLIP, learning_rate=1e-6, entropy_coef=0.01)
    update, plain_update = PPOUpdate(captioner, config, seed=0), _PlainUpdate(plain, scored, config)
    rounds = []
    for number in range(num_rounds + 1):
        fresh = _renumbered(scored, number)
        runs = (partial(update.update, [fresh]), plain_update, partial(_model_alone, update, merge([fresh]).captions))
        rounds.append([seconds(run, device) for run in runs])
    ours, theirs, model = np.array(rounds[1:]).T  # the first one warms up
    action_mask = torch.from_numpy(scored.rollouts.action_mask)
    num_tokens = int(action_mask.sum())
    return LearnerSpeed(
        policy=size.name,
        workload=workload.name,
        tokens_per_s=num_tokens / float(np.median(ours)),
        plain_tokens_per_s=num_tokens / float(np.median(theirs)),
        share_of_plain_update=float(np.median(theirs / ours)),
        outside_model=float(np.median(1 - model / ours)),
        padding=_padding(scored),
        padding_of_plain=1 - num_tokens / action_mask.numel(),
    )


@torch.no_grad()
def _rollouts(captioner: PrefixCaptioner) -> ScoredRollouts:
    """Captions of the policy itself, with random scores."""
    rng = np.random.default_rng(0)
    device = next(captioner.parameters()).device
    frames = rng.standard_normal((NUM_CLIPS, NUM_FRAMES, captioner.audio_tower.width), dtype=np.float32)
    features = PolicyFeatures(frames, np.ones(frames.shape[:2], dtype=bool))
    encoding = captioner.encode(*(torch.from_numpy(array).to(device) for array in (frames, features.frame_mask)))
    clip_index = torch.arange(NUM_CLIPS, device=device).repeat_interleave(SAMPLES_PER_CLIP)
    generator = torch.Generator(device).manual_seed(0)
    sampled = sample_captions(
        captioner, encoding, clip_index, temperature=1.0, max_new_tokens=MAX_TOKENS, generator=generator
    )
    num_captions = len(clip_index)
    rollouts = RolloutBatch(
        clip_ids=tuple(f"clip-{number}" for number in range(NUM_CLIPS)),
        features=features,
        clip_index=clip_index.cpu().numpy(),
        tokens=sampled.tokens.cpu().numpy(),
        action_mask=sampled.action_mask.cpu().numpy(),
        log_probs=sampled.log_probs.cpu().numpy(),
        ref_log_probs=sampled.log_probs.cpu().numpy(),
        values=sampled.values.cpu().numpy(),
        truncated=sampled.truncated.cpu().numpy(),
        captions=captioner.decode(sampled.tokens.cpu(), sampled.action_mask.cpu()),
        temperature=1.0,
        policy_version=0,
        batch_index=0,
    )
    scores = rng.standard_normal(num_captions, dtype=np.float32)
    return ScoredRollouts(rollouts, RewardBatch(scores, np.zeros(num_captions, dtype=bool), (), "random"))


def _renumbered(scored: ScoredRollouts, number: int) -> ScoredRollouts:
    """The same rollouts as if they were new: the learner takes none twice."""
    return replace(scored, rollouts=replace(scored.rollouts, policy_version=number, batch_index=number))


class _PlainUpdate:
    """What one would write without rlcap: captions padded to the longest, a prefix for each, one PPO step."""

    def __init__(self, captioner: PrefixCaptioner, scored: ScoredRollouts, config: PPOConfig) -> None:
        self._captioner, self._config = captioner, config
        self._captions = merge([scored]).captions.to(next(captioner.parameters()).device)
        self._old = torch.from_numpy(scored.rollouts.log_probs).to(self._captions.tokens.device)
        critic = {id(parameter) for parameter in captioner.value_head.parameters()}
        trained = [parameter for parameter in captioner.parameters() if parameter.requires_grad]
        self._clipped_apart = [
            [one for one in trained if (id(one) in critic) is of_critic] for of_critic in (False, True)
        ]
        self._optimizer = torch.optim.Adam(trained, lr=config.learning_rate)

    def __call__(self) -> None:
        captioner, captions, mask = self._captioner, self._captions, self._captions.action_mask
        prefix = captioner.encode(captions.frames, captions.frame_mask).states[captions.clip_index]
        model = captioner.language_model
        words = model.get_input_embeddings()(captions.tokens[:, :-1])
        hidden = model.base_model(inputs_embeds=torch.cat([prefix, words], dim=1)).last_hidden_state
        hidden = hidden[:, prefix.shape[1] - 1 :]
        log_softmax = model.lm_head(hidden).log_softmax(dim=-1)
        log_probs = log_softmax.gather(-1, captions.tokens[:, :, None]).squeeze(-1)
        entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)
        values = captioner.value_head(hidden.detach()).squeeze(-1)
        ratio = (log_probs - self._old).exp()
        clipped = ratio.clamp(1 - self._config.clip_range, 1 + self._config.clip_range)
        terms = -torch.minimum(ratio, clipped) + 0.5 * values**2 - self._config.entropy_coef * entropy
        loss = torch.where(mask, terms, 0.0).sum() / mask.sum()
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        for parameters in self._clipped_apart:
            nn.utils.clip_grad_norm_(parameters, self._config.max_grad_norm)
        self._optimizer.step()


def _model_alone(update: PPOUpdate, captions: Captions) -> None:
    """Run forward and backward pass and the optimiser's step as the learner does, with next to no loss around them."""
    with learning_linears(update.captioner):
        output = update.forward(captions.to(next(update.captioner.parameters()).device))
        update.optimizer.zero_grad()
        torch.autograd.backward((output.log_probs + output.values + output.entropy).sum() * 0.0)
    update.optimizer.step()


def _padding(scored: ScoredRollouts) -> float:
    """Share of the positions in the learner's passes that hold neither prefix nor token."""
    rollouts = scored.rollouts
    lengths = torch.full((NUM_CLIPS,), PREFIX_LENGTH)
    layouts = list(lay_out(lengths, torch.from_numpy(rollouts.clip_index), torch.from_numpy(rollouts.action_mask)))
    num_positions = sum(layout.position_ids.numel() for layout in layouts)
    num_used = sum(len(layout.token_rows) + PREFIX_LENGTH * len(layout.clips) for layout in layouts)
    return 1 - num_used / num_positions
