"""A captioner of a few hundred parameters, rollouts that it sampled, and updates of it."""

import dataclasses

import numpy as np
import torch
from torch import nn

from learner.advantages import Advantages
from learner.batching import Experience, Targets, merge
from learner.ppo_update import PPOUpdate
from rlcap.captioners.captioner import Encoding, PolicyOutput
from rlcap.config.algorithm import PPOConfig
from rlcap.types import PolicyFeatures, RewardBatch, RolloutBatch, ScoredRollouts

VOCABULARY, EOS, WIDTH, MELS = 7, 0, 6, 3


class SmallCaptioner(nn.Module):
    """Predicts each token from the clip and the token before it."""

    def __init__(self, seed=0, dropout=0.0):
        super().__init__()
        torch.manual_seed(seed)
        self.audio = nn.Linear(MELS, WIDTH)
        self.token = nn.Embedding(VOCABULARY, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.vocabulary = nn.Linear(WIDTH, VOCABULARY)
        self.value_head = nn.Linear(WIDTH, 1)
        self.clips_encoded = []

    def encode(self, frames, frame_mask):
        self.clips_encoded.append(len(frames))
        total = torch.where(frame_mask[..., None], frames, 0.0).sum(dim=1)
        return Encoding(self.audio(total / frame_mask.sum(dim=1, keepdim=True))[:, None])

    def scoring_parameters(self):
        return self.parameters()

    def log_probs(self, encoding, clip_index, tokens, action_mask, temperature, support_sizes=None):
        known = torch.where(action_mask, tokens, EOS)
        before = nn.functional.pad(self.token(known[:, :-1]), (0, 0, 1, 0))
        hidden = torch.tanh(self.dropout(encoding.states[clip_index] + before))
        log_softmax = (self.vocabulary(hidden) / temperature).log_softmax(-1)
        return PolicyOutput(
            log_probs=log_softmax.gather(-1, known[..., None]).squeeze(-1),
            values=self.value_head(hidden.detach()).squeeze(-1),
            entropy=-(log_softmax.exp() * log_softmax).sum(-1),
        )


def sample(captioner, batch_index=0, *, num_clips=4, group=4, version=0, score=None, failed=(), num_tokens=6):
    """Random captions with the captioner's own log-probs and values; the last token of each is end-of-sequence."""
    rng = np.random.default_rng(batch_index)
    rows = num_clips * group
    lengths = rng.integers(1, num_tokens + 1, size=rows)
    tokens = rng.integers(1, VOCABULARY, size=(rows, num_tokens))
    tokens[np.arange(num_tokens) >= lengths[:, None] - 1] = EOS
    frames = rng.normal(size=(num_clips, 5, MELS)).astype(np.float32)
    frame_mask = np.ones(frames.shape[:2], dtype=bool)
    clip_index = np.repeat(np.arange(num_clips), group)
    action_mask = np.arange(num_tokens) < lengths[:, None]
    with torch.no_grad():
        output = captioner.eval().log_probs(
            captioner.encode(torch.tensor(frames), torch.tensor(frame_mask)),
            torch.tensor(clip_index),
            torch.tensor(tokens),
            torch.tensor(action_mask),
            0.8,
        )
    marks = np.isin(np.arange(rows), failed)
    scores = rng.normal(size=rows)
    if score is not None:
        scores = np.array([score(row[:length]) for row, length in zip(tokens, lengths, strict=True)])
    rollouts = RolloutBatch(
        clip_ids=tuple(str(clip) for clip in range(num_clips)),
        features=PolicyFeatures(frames, frame_mask),
        clip_index=clip_index,
        tokens=tokens,
        action_mask=action_mask,
        log_probs=output.log_probs.numpy().copy(),
        ref_log_probs=(output.log_probs.numpy() + rng.normal(scale=0.1, size=tokens.shape)).astype(np.float32),
        values=output.values.numpy().copy(),
        truncated=np.zeros(rows, dtype=bool),
        captions=("",) * rows,
        temperature=0.8,
        policy_version=version,
        batch_index=batch_index,
    )
    return ScoredRollouts(
        rollouts,
        RewardBatch(np.where(marks, np.nan, scores).astype(np.float32), marks, (), "v1"),
        greedy_scores=scores.reshape(num_clips, group).mean(axis=1).astype(np.float32),
    )


def edit(scored, **changes):
    return dataclasses.replace(scored, rollouts=dataclasses.replace(scored.rollouts, **changes))


def make_update(captioner=None, *, seed=0, collective=None, **settings):
    defaults = {"learning_rate": 1e-2, "value_learning_rate": 1e-2, "minibatch_size": 8}
    config = PPOConfig(**(defaults | settings))
    assert list(config.faults()) == []
    return PPOUpdate(captioner or SmallCaptioner(), config, seed=seed, collective=collective)


def weights_of(update):
    return torch.cat([parameter.detach().reshape(-1) for parameter in update.captioner.parameters()])


def weights_after(*updates_of, **settings):
    """Weights of a fresh captioner after these updates."""
    update = make_update(**settings)
    for scored in updates_of:
        update.update(scored)
    return weights_of(update)


def experience_of(scored, captioner):
    """An update's experience with made-up advantages, and a policy that has moved since it sampled."""
    batch = merge(scored)
    generator = torch.Generator().manual_seed(3)
    advantages, returns, moved = (torch.randn(batch.log_probs.shape, generator=generator) for _ in range(3))
    learned = Advantages(advantages, returns)
    proximal = batch.log_probs + 0.1 * moved
    return Experience(
        batch.captions,
        Targets(batch.log_probs, proximal, batch.ref_log_probs, batch.values, learned.advantages, learned.returns),
    )


def gradient_of(update):
    return torch.cat(
        [(torch.zeros_like(one) if one.grad is None else one.grad).reshape(-1) for one in update.captioner.parameters()]
    )


class ThreadedLearner:
    """One of several learners that meet at a barrier."""

    def __init__(self, rank, barrier, board):
        self.rank, self.num_learners = rank, barrier.parties
        self._barrier, self._board = barrier, board

    def _all(self, tensor):
        self._board[self.rank] = tensor.clone()
        self._barrier.wait(timeout=30)
        everyone = [self._board[rank] for rank in range(self.num_learners)]
        self._barrier.wait(timeout=30)
        return everyone

    def sum_in_place(self, tensor):
        tensor.copy_(sum(self._all(tensor)))

    def copy_from_first(self, tensor):
        tensor.copy_(self._all(tensor)[0])
