"""What one learner of a group lets its captioner do: score captions, and leave gradients in its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from learner.batching import Captions, Experience, LearnerBatch, deal_clips, rows_of, take_clips, take_minibatch
from learner.collective import Collective, all_or_none
from learner.objective import AVERAGES, ppo_objective
from rlcap.captioners.captioner import Captioner, PolicyOutput
from rlcap.captioners.learning_linears import learning_linears
from rlcap.captioners.master_weights import trains_in_bfloat16
from rlcap.config.algorithm import PPOConfig
from rlcap.threads import deterministic_algorithms

OF_CLIPS = ("frames", "frame_mask")
"""What captions hold a clip; all else they hold a rollout."""


class PolicyPass:
    """Forward and backward passes, at the precision and in the pieces that the settings ask for."""

    def __init__(self, captioner: Captioner, config: PPOConfig, collective: Collective) -> None:
        self._captioner = captioner
        self._config = config
        self._collective = collective
        self.device = next(captioner.parameters()).device
        weights = [*captioner.scoring_parameters()]
        self._in_bfloat16 = trains_in_bfloat16(weights, config.precision)
        self.are_in_float32 = not self._in_bfloat16 and all(one.dtype == torch.float32 for one in weights)
        """Whether nothing in a pass is rounded to less, so that a sampler in float32 computes the same."""

    def forward(self, captions: Captions) -> PolicyOutput:
        """Score captions under the current weights; each clip is encoded once."""
        with self._computing():
            return self._score(captions)

    def _score(self, captions: Captions) -> PolicyOutput:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._in_bfloat16):
            encoding = self._captioner.encode(captions.frames, captions.frame_mask)
            return self._captioner.log_probs(
                encoding,
                captions.clip_index,
                captions.tokens,
                captions.action_mask,
                captions.temperature,
                captions.support_sizes,
            )

    def add_gradient(
        self, experience: Experience, clips: Int64[Tensor, " clip"], settings: PPOConfig, *, num_units: float
    ) -> Float[Tensor, " average"]:
        """Add the gradient of these clips' loss to that in the parameters; return the `AVERAGES` behind the loss."""
        averages = torch.zeros(len(AVERAGES), device=self.device)
        if not len(clips):
            return averages
        minibatch = take_minibatch(experience, clips)
        for rows, captions in _in_pieces(minibatch.captions, self._config.microbatch_size):
            targets = minibatch.targets.rows(rows, captions.tokens.shape[1])
            piece = Experience(captions, targets).to(self.device)
            with self._computing():  # the backward pass too
                objective = ppo_objective(self._score(piece.captions), piece, settings, num_units=num_units)
                torch.autograd.backward(objective.loss)
            averages += objective.averages
        return averages

    @torch.no_grad()
    def proximal_log_probs(
        self, batch: LearnerBatch, recompute: Bool[Tensor, " batch"], *, seed: int
    ) -> Float[Tensor, "batch token"]:
        """Return log-probs under the current weights: computed where asked for, else those of the sampler."""
        if not recompute.any():
            return batch.log_probs
        captions = batch.captions
        computed = torch.zeros_like(batch.log_probs)
        with all_or_none(self._collective, self.device):
            for clips in deal_clips(captions.clip_index[recompute], self._config.minibatch_size, [seed]):
                mine = self.my_share(clips)
                if not len(mine):
                    continue
                chosen = rows_of(captions.clip_index, mine)
                for rows, part in _in_pieces(take_clips(captions, mine), self._config.microbatch_size):
                    log_probs = self.forward(part.to(self.device)).log_probs.float().cpu()
                    computed[chosen[rows], : log_probs.shape[1]] = log_probs
        computed = computed.to(self.device)
        self._collective.sum_in_place(computed)
        return torch.where(recompute[:, None], computed.cpu(), batch.log_probs)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        linears = nullcontext() if self._in_bfloat16 else learning_linears(self._captioner)
        with deterministic_algorithms(self.device), linears:
            yield

    def my_share(self, clips: Int64[Tensor, " clip"]) -> Int64[Tensor, " clip"]:
        """Return the clips of a minibatch that fall to this learner."""
        return clips[self._collective.rank :: self._collective.num_learners]


def _in_pieces(captions: Captions, max_rollouts: int) -> Iterator[tuple[Int64[Tensor, " row"], Captions]]:
    """Yield `max_rollouts` rows after another and what they hold; all at once where that is 0."""
    all_rows = torch.arange(len(captions.clip_index))
    if not 0 < max_rollouts < len(all_rows):
        yield all_rows, captions
        return
    for rows in all_rows.split(max_rollouts):
        yield rows, _take_rows(captions, rows)


def _take_rows(captions: Captions, rows: Int64[Tensor, " row"]) -> Captions:
    """Return these rows, trimmed to their longest caption, with the clips that they describe."""
    clips, clip_index = captions.clip_index[rows].unique(return_inverse=True)
    length = int(captions.action_mask[rows].any(dim=0).nonzero().max()) + 1
    chosen = {"clip_index": clip_index}
    for field in fields(captions):
        value = getattr(captions, field.name)
        if isinstance(value, Tensor) and field.name not in chosen:
            chosen[field.name] = value[clips] if field.name in OF_CLIPS else value[rows, :length]
    return replace(captions, **chosen)
