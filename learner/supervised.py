"""Supervised training of a captioner on (audio, caption) pairs: the baseline, and the supervised comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from rlcap.audio.augmentation import augment_frames
from rlcap.captioners.captioner import Captioner
from rlcap.config.captioner import SftConfig
from rlcap.types import PolicyFeatures

WARMUP_SHARE = 0.1


def supervise(
    captioner: Captioner,
    features: PolicyFeatures,
    captions: Sequence[Sequence[str]],
    config: SftConfig,
    seed: int,
    on_epoch: Callable[[int, float], None],
) -> float:
    """Teach `captioner` in place; every epoch each clip is paired with the next of its captions.

    Args:
        captioner: modified in place, left in evaluation mode.
        features: of C clips, as `captioner.encode` reads them.
        captions: one or more per clip.
        config: epochs, batch size, rates.
        seed: of shuffling, augmentation and dropout.
        on_epoch: told the epoch number and its mean loss (nats a token).

    Returns:
        The mean loss of the last epoch.
    """
    frames, frame_mask = torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask)
    num_clips = len(captions)
    steps_per_epoch = math.ceil(num_clips / config.batch_size)
    optimizer = torch.optim.AdamW(captioner.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = LambdaLR(optimizer, _warmup_then_cosine(steps_per_epoch * config.num_epochs))
    generator = torch.Generator().manual_seed(seed)
    loss_of_epoch = math.nan
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout draws from the global generator
        captioner.train()
        for epoch in range(config.num_epochs):
            total = 0.0
            for chosen in torch.randperm(num_clips, generator=generator).split(config.batch_size):
                heard = frames[chosen]
                if config.augment:
                    heard = augment_frames(heard, frame_mask[chosen], generator)
                written = [captions[i][epoch % len(captions[i])] for i in chosen.tolist()]
                loss = _caption_loss(captioner, heard, frame_mask[chosen], written)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(captioner.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(chosen)
            loss_of_epoch = total / num_clips
            on_epoch(epoch, loss_of_epoch)
    captioner.eval()
    return loss_of_epoch


def _caption_loss(
    captioner: Captioner, frames: torch.Tensor, frame_mask: torch.Tensor, captions: Sequence[str]
) -> torch.Tensor:
    tokens, mask = captioner.tokenize(captions)
    encoding = captioner.encode(frames, frame_mask)
    output = captioner.log_probs(encoding, torch.arange(len(captions)), tokens, mask, temperature=1.0)
    return -output.log_probs.sum() / mask.sum()


def _warmup_then_cosine(num_steps: int) -> Callable[[int], float]:
    warmup = max(1, round(WARMUP_SHARE * num_steps))

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))

    return scale
