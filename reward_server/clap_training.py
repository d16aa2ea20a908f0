"""Contrastive training of the small CLAP on captioned clips held in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from reward_server.small_clap import SmallClap
from rlcap.audio.augmentation import augment_frames
from rlcap.audio.features import LogMelConfig
from rlcap.config.reward import ClapConfig
from rlcap.divergence import DivergenceWatch, lower
from rlcap.threads import deterministic_algorithms
from rlcap.types import PolicyFeatures

MAX_LOGIT_SCALE = 100.0
MAX_SHIFT_SHARE = 0.1
"""Longest shift of a clip in time, as a share of the padded length."""
WARMUP_SHARE = 0.1
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, slots=True)
class ClapMetrics:
    """How the training went."""

    train_losses: tuple[float, ...]
    """Mean contrastive loss of each epoch."""
    num_validation_clips: int
    retrieval_at_1: float
    """Share of validation clips whose nearest caption, among all of the validation clips', is theirs."""
    retrieval_at_5: float
    """The same for the nearest five distinct captions."""


@dataclass(frozen=True, slots=True)
class ClapProgress:
    """What the progress callback sees after each epoch."""

    epoch: int
    num_epochs: int
    train_loss: float


def train_clap(
    features: PolicyFeatures,
    captions: Sequence[str],
    config: ClapConfig,
    on_epoch: Callable[[ClapProgress], None] | None = None,
    *,
    seed: int,
    log_mel: LogMelConfig | None = None,
) -> tuple[SmallClap, ClapMetrics]:
    """Train a new CLAP on C clips with one caption each; the same seed gives the same weights.

    `seed` decides initial weights, split, order and augmentation. `log_mel` tells how `features` were made, for clips
    that come later; None: with the default settings.

    Raises:
        ValueError: captions and clips differ in number, or are too few to train and validate on.
        DivergedError: loss, gradient or weights are not finite.
    """
    num_clips = len(features.frames)
    if len(captions) != num_clips:
        raise ValueError(f"captions must be one a clip: got {len(captions)} captions for {num_clips} clips")
    order = np.random.default_rng(seed).permutation(num_clips)
    num_validation = max(1, round(config.validation_share * num_clips))
    if num_clips - num_validation < 2:
        raise ValueError(f"at least 3 captioned clips are needed to train and validate a CLAP, got {num_clips}")
    validation, training = np.sort(order[:num_validation]), np.sort(order[num_validation:])
    clap = SmallClap.for_captions(config, captions, log_mel or LogMelConfig(), seed=seed)
    with deterministic_algorithms(clap.log_logit_scale.device):
        losses = _Training(clap, features, captions, training, config, seed).run(on_epoch)
    at_1, at_5 = retrieval(clap, _select(features, validation), [captions[i] for i in validation])
    return clap, ClapMetrics(losses, num_validation, at_1, at_5)


def contrastive_loss(
    audio: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    same_caption: Bool[Tensor, "batch batch"],
    logit_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE (Radford et al., 2021), its target spread evenly over clips with the same caption.

    Without the spreading, two clips with the same caption would be pushed apart (Khosla et al., 2020).
    """
    logits = logit_scale * functional.normalize(audio, dim=1) @ functional.normalize(text, dim=1).T
    targets = same_caption / same_caption.sum(dim=1, keepdim=True)
    return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2


@torch.no_grad()
def retrieval(clap: SmallClap, features: PolicyFeatures, captions: Sequence[str]) -> tuple[float, float]:
    """Share of clips whose caption is nearest, and among the nearest five, of the distinct captions given."""
    clap.eval()
    distinct = sorted(set(captions))
    place = {caption: index for index, caption in enumerate(distinct)}
    own = torch.tensor([place[caption] for caption in captions])
    audio = functional.normalize(clap.embed_features(features), dim=1)
    text = functional.normalize(clap.embed_captions(distinct), dim=1)
    nearest = (audio @ text.T).topk(min(5, len(distinct)), dim=1).indices
    hits = nearest == own[:, None]
    return hits[:, 0].float().mean().item(), hits.any(dim=1).float().mean().item()


class _Training:
    """State of one training run."""

    def __init__(
        self,
        clap: SmallClap,
        features: PolicyFeatures,
        captions: Sequence[str],
        training: Int64[np.ndarray, " clip"],
        config: ClapConfig,
        seed: int,
    ) -> None:
        self._clap = clap
        self._config = config
        self._training = torch.from_numpy(training)
        self._frames = torch.from_numpy(features.frames)
        self._mask = torch.from_numpy(features.frame_mask)
        self._tokens, self._token_mask = clap.tokenize(captions)
        self._words = _bags_of_words(self._tokens, self._token_mask, clap.shape.vocab_size)
        _, caption_ids = np.unique(np.asarray(captions), return_inverse=True)
        self._caption_ids = torch.from_numpy(caption_ids)
        self._generator = torch.Generator().manual_seed(seed)
        self._steps_per_epoch = max(1, len(training) // config.batch_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._word_head = nn.Linear(clap.embedding_dim, clap.shape.vocab_size)
        self._optimizer = torch.optim.AdamW(
            [*clap.parameters(), *self._word_head.parameters()],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            foreach=True,
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            max_lr=config.learning_rate,
            total_steps=config.num_epochs * self._steps_per_epoch,
            pct_start=WARMUP_SHARE,
            cycle_momentum=False,
        )
        self._watch = DivergenceWatch(
            "training the small CLAP", lower({"reward.clap.learning_rate": config.learning_rate})
        )
        clap.audio_tower.tower.fit_input_scale(self._frames[self._training], self._mask[self._training])

    def run(self, on_epoch: Callable[[ClapProgress], None] | None) -> tuple[float, ...]:
        """Run every epoch; return their mean losses."""
        losses: list[float] = []
        for epoch in range(self._config.num_epochs):
            self._clap.train()
            order = self._training[torch.randperm(len(self._training), generator=self._generator)]
            # Equal batches: a small last one would be an easier contrast with a noisy gradient.
            batches = order.tensor_split(self._steps_per_epoch)
            losses.append(float(np.mean([self._step(batch, epoch) for batch in batches])))
            if on_epoch is not None:
                on_epoch(ClapProgress(epoch, self._config.num_epochs, losses[-1]))
        self._watch.finish(self._clap.state_dict())
        self._clap.eval()
        return tuple(losses)

    def _step(self, batch: Int64[Tensor, " batch"], epoch: int) -> float:
        frames, mask = self._frames[batch], self._mask[batch]
        if self._config.augment:
            frames, mask = shift_in_time(frames, mask, self._generator)
            frames = augment_frames(frames, mask, self._generator)
        token_mask = self._token_mask[batch]
        longest = int(token_mask.sum(dim=1).max())
        text = self._clap.embed_tokens((self._tokens[batch, :longest], token_mask[:, :longest]))
        audio = self._clap.audio_tower(frames, mask)
        ids = self._caption_ids[batch]
        scale = self._clap.log_logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        loss = contrastive_loss(audio, text, ids[:, None] == ids[None, :], scale)
        if self._config.word_loss_weight:
            loss = loss + self._config.word_loss_weight * self._word_loss(audio, batch)
        self._optimizer.zero_grad()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(self._clap.parameters(), MAX_GRAD_NORM)
        self._optimizer.step()
        self._watch.note_step(epoch, loss, grad_norm)
        self._schedule.step()
        return loss.item()

    def _word_loss(self, audio: Float[Tensor, "batch dim"], batch: Int64[Tensor, " batch"]) -> Float[Tensor, ""]:
        """How badly the audio foretells which words its caption holds; summed over words, averaged over clips.

        Telling a batch's captions apart takes only some of their sounds; naming their words takes all of them.
        """
        logits = self._word_head(audio)
        losses = functional.binary_cross_entropy_with_logits(logits, self._words[batch], reduction="none")
        return losses.sum(dim=1).mean()


def _bags_of_words(
    tokens: Int64[Tensor, "clip token"], mask: Bool[Tensor, "clip token"], vocab_size: int
) -> Float[Tensor, "clip word"]:
    """Mark the words of each caption with 1."""
    marked = torch.zeros(len(tokens), vocab_size + 1)
    marked.scatter_(1, torch.where(mask, tokens, vocab_size), 1.0)
    return marked[:, :vocab_size]


def shift_in_time(
    frames: Float[Tensor, "clip frame mel"], mask: Bool[Tensor, "clip frame"], generator: torch.Generator
) -> tuple[Float[Tensor, "clip frame mel"], Bool[Tensor, "clip frame"]]:
    """Cut a random number of frames off the start of the batch, at most `MAX_SHIFT_SHARE` of the shortest clip."""
    most = int(MAX_SHIFT_SHARE * int(mask.sum(dim=1).min()))
    start = int(torch.randint(most + 1, (1,), generator=generator))
    return frames[:, start:], mask[:, start:]


def _select(features: PolicyFeatures, clips: Int64[np.ndarray, " clip"]) -> PolicyFeatures:
    return PolicyFeatures(features.frames[clips], features.frame_mask[clips])
