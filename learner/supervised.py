"""Supervised training of a captioner on (audio, caption) pairs: the baseline, and the supervised comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from rlcap.audio.augmentation import augment_frames
from rlcap.captioners.captioner import Captioner, Encoding
from rlcap.captioners.master_weights import hold_masters
from rlcap.config.captioner import SftConfig
from rlcap.threads import deterministic_algorithms
from rlcap.types import PolicyFeatures

WARMUP_SHARE = 0.1
TEXT_BATCH_SIZE, TEXT_LEARNING_RATE = 64, 2e-3
"""For small language models trained from scratch."""


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
        captioner: modified in place, on the device it is on; left in evaluation mode.
        features: of C clips, as `captioner.encode` reads them.
        captions: one or more per clip.
        config: epochs, batch size, rates.
        seed: of shuffling, augmentation and dropout.
        on_epoch: told the epoch number and its mean loss (nats a token).

    Returns:
        The mean loss of the last epoch.
    """
    frames, frame_mask = torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask)
    device = next(captioner.parameters()).device
    generator = torch.Generator().manual_seed(seed)

    def loss_of(chosen: Int64[Tensor, " batch"], epoch: int) -> Float[Tensor, ""]:
        heard, mask = frames[chosen], frame_mask[chosen]
        if config.augment:
            heard = augment_frames(heard, mask, generator)
        written = [captions[i][epoch % len(captions[i])] for i in chosen.tolist()]
        return _caption_loss(captioner, captioner.encode(heard.to(device), mask.to(device)), written)

    plan = _Plan(len(captions), config.num_epochs, config.batch_size, config.learning_rate, config.weight_decay)
    return _train(captioner, plan, loss_of, generator, seed, on_epoch)


def teach_language(
    captioner: Captioner,
    blank: PolicyFeatures,
    captions: Sequence[str],
    config: SftConfig,
    seed: int,
    on_epoch: Callable[[int, float], None],
) -> float:
    """Teach `captioner` in place to write such captions, before it hears anything: its prefix is all zeros.

    A language model from scratch learns here what a pretrained one brings along. `blank` are the features of any one
    clip: they give the prefix its size. Otherwise as `supervise`, with the text's own epochs, batches and rate.
    """
    device = next(captioner.parameters()).device
    frames, frame_mask = (torch.from_numpy(array[:1]).to(device) for array in (blank.frames, blank.frame_mask))

    def loss_of(chosen: Int64[Tensor, " batch"], _: int) -> Float[Tensor, ""]:
        silence = torch.zeros_like(captioner.encode(frames, frame_mask).states)
        encoding = Encoding(silence.expand(len(chosen), -1, -1))
        return _caption_loss(captioner, encoding, [captions[i] for i in chosen.tolist()])

    plan = _Plan(len(captions), config.text_epochs, TEXT_BATCH_SIZE, TEXT_LEARNING_RATE, config.weight_decay)
    return _train(captioner, plan, loss_of, torch.Generator().manual_seed(seed), seed, on_epoch)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How long and how fast to train on N items."""

    num_items: int
    num_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float


def _train(
    captioner: Captioner,
    plan: _Plan,
    loss_of: Callable[[Int64[Tensor, " batch"], int], Float[Tensor, ""]],
    generator: torch.Generator,
    seed: int,
    on_epoch: Callable[[int, float], None],
) -> float:
    """Run epochs of AdamW over shuffled batches, on master weights in float32; return the mean loss of the last."""
    device = next(captioner.parameters()).device
    hold_masters(captioner, device)
    optimizer = torch.optim.AdamW(captioner.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    num_steps = math.ceil(plan.num_items / plan.batch_size) * plan.num_epochs
    schedule = LambdaLR(optimizer, _warmup_then_cosine(num_steps))
    loss_of_epoch = math.nan
    with torch.random.fork_rng(), deterministic_algorithms(device):
        torch.manual_seed(seed)  # dropout draws from the global generator
        captioner.train()
        for epoch in range(plan.num_epochs):
            losses = []  # read once an epoch: a look at each would make the host wait for a GPU
            for chosen in torch.randperm(plan.num_items, generator=generator).split(plan.batch_size):
                loss = loss_of(chosen, epoch)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(captioner.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                losses.append(loss.detach() * len(chosen))
            loss_of_epoch = float(torch.stack(losses).sum()) / plan.num_items
            on_epoch(epoch, loss_of_epoch)
    captioner.eval()
    return loss_of_epoch


def _caption_loss(captioner: Captioner, encoding: Encoding, written: Sequence[str]) -> Float[Tensor, ""]:
    device = encoding.states.device
    tokens, mask = (tensor.to(device) for tensor in captioner.tokenize(written))
    output = captioner.log_probs(encoding, torch.arange(len(written), device=device), tokens, mask, temperature=1.0)
    return -output.log_probs.sum() / mask.sum()


def _warmup_then_cosine(num_steps: int) -> Callable[[int], float]:
    warmup = max(1, round(WARMUP_SHARE * num_steps))

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))

    return scale
