"""Supervised training of a captioner on (audio, caption) pairs: the baseline, and the supervised comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from learner.caption_targets import CaptionTargets, TargetBatch
from learner.learning_rates import parameter_groups
from rlcap.audio.augmentation import augment_frames
from rlcap.captioners.captioner import Captioner, Encoding
from rlcap.captioners.master_weights import hold_masters, trains_in_bfloat16
from rlcap.config.captioner import SftConfig
from rlcap.divergence import DivergenceWatch, lower
from rlcap.threads import deterministic_algorithms
from rlcap.types import PolicyFeatures

WARMUP_SHARE = 0.1
MAX_GRAD_NORM = 1.0
TEXT_BATCH_SIZE, TEXT_LEARNING_RATE = 64, 2e-3
"""For small language models trained from scratch."""

Encode = Callable[[slice], Encoding]
"""Some clips of a batch, by their place in it, to what the decoder reads of them."""


def supervise(
    captioner: Captioner,
    features: PolicyFeatures,
    captions: Sequence[Sequence[str]],
    config: SftConfig,
    seed: int,
    on_epoch: Callable[[int, float], None],
    *,
    pretrained: Sequence[str] = (),
) -> float:
    """Teach `captioner` in place; every epoch each clip is paired with the next of its captions.

    Args:
        captioner: modified in place, on the device it is on; left in evaluation mode.
        features: of C clips, as `captioner.encode` reads them.
        captions: one or more per clip; `CaptionTargets.of` says what of them is taught.
        config: epochs, batch size, rates.
        seed: of shuffling, augmentation and dropout.
        on_epoch: told the epoch number and its mean loss (nats a token).
        pretrained: modules of the captioner that come from a checkpoint, which `config.learning_rate` may depend on.

    Returns:
        The mean loss of the last epoch.

    Raises:
        DataError: no caption can be taught.
        DivergedError: loss, gradient or weights are not finite; the captioner is spoilt.
        RlcapError: there is nothing to train.
    """
    frames, frame_mask = torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask)
    device = next(captioner.parameters()).device
    hold_masters(captioner, device)
    generator = torch.Generator().manual_seed(seed)
    longest = frame_mask.sum(dim=1).argmax()[None]
    room = _room(captioner, frames[longest].to(device), frame_mask[longest].to(device))
    targets = CaptionTargets.of(captioner, captions, room)
    clips = torch.tensor(targets.clips)

    def hear(chosen: Int64[Tensor, " batch"]) -> Encode:
        heard, mask = frames[clips[chosen]], frame_mask[clips[chosen]]
        if config.augment:
            heard = augment_frames(heard, mask, generator)
        return lambda rows: captioner.encode(heard[rows].to(device), mask[rows].to(device))

    groups = parameter_groups(captioner, config.learning_rate, pretrained)
    remedy = lower({"sft.learning_rate": max(group["lr"] for group in groups)})
    watch = DivergenceWatch("supervised fine-tuning", remedy)
    plan = _Plan(config, groups, config.num_epochs, config.batch_size)
    return _Training(captioner, plan, watch, targets, hear, generator).run(seed, on_epoch)


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
    hold_masters(captioner, device)
    frames, frame_mask = (torch.from_numpy(array[:1]).to(device) for array in (blank.frames, blank.frame_mask))
    targets = CaptionTargets.of(captioner, [[caption] for caption in captions], _room(captioner, frames, frame_mask))

    def hear(chosen: Int64[Tensor, " batch"]) -> Encode:
        def encode(rows: slice) -> Encoding:
            silence = torch.zeros_like(captioner.encode(frames, frame_mask).states)
            return Encoding(silence.expand(len(chosen[rows]), -1, -1))

        return encode

    watch = DivergenceWatch("teaching the baseline language", "set sft.text_epochs=0 to do without")
    plan = _Plan(config, parameter_groups(captioner, TEXT_LEARNING_RATE, ()), config.text_epochs, TEXT_BATCH_SIZE)
    generator = torch.Generator().manual_seed(seed)
    return _Training(captioner, plan, watch, targets, hear, generator).run(seed, on_epoch)


@torch.no_grad()
def _room(
    captioner: Captioner, frames: Float[Tensor, "clip frame dim"], frame_mask: Bool[Tensor, "clip frame"]
) -> int | None:
    return captioner.eval().longest_caption(captioner.encode(frames, frame_mask))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is trained, for how long and how fast."""

    config: SftConfig
    """Weight decay, micro-batches and precision."""
    groups: list[dict[str, Any]]
    """Parameters and their learning rates, as an optimiser takes them."""
    num_epochs: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class _Training:
    """Epochs of AdamW over shuffled batches, on master weights in float32."""

    captioner: Captioner
    plan: _Plan
    watch: DivergenceWatch
    targets: CaptionTargets
    hear: Callable[[Int64[Tensor, " batch"]], Encode]
    """Of chosen clips among those that are taught."""
    generator: torch.Generator

    def run(self, seed: int, on_epoch: Callable[[int, float], None]) -> float:
        """Run them all; return the mean loss of the last."""
        plan, num_clips = self.plan, len(self.targets.clips)
        device = next(self.captioner.parameters()).device
        optimizer = torch.optim.AdamW(plan.groups, weight_decay=plan.config.weight_decay)
        num_steps = math.ceil(num_clips / plan.batch_size) * plan.num_epochs
        schedule = LambdaLR(optimizer, _warmup_then_cosine(num_steps))
        loss_of_epoch = math.nan
        with torch.random.fork_rng(), deterministic_algorithms(device):
            torch.manual_seed(seed)  # dropout draws from the global generator
            self.captioner.train()
            for epoch in range(plan.num_epochs):
                losses = []  # read once an epoch: a look at each would make the host wait for a GPU
                for chosen in torch.randperm(num_clips, generator=self.generator).split(plan.batch_size):
                    loss = self._step(optimizer, chosen, epoch)
                    schedule.step()
                    losses.append(loss * len(chosen))
                loss_of_epoch = float(torch.stack(losses).sum()) / num_clips
                on_epoch(epoch, loss_of_epoch)
        self.watch.finish(self.captioner.state_dict())
        self.captioner.eval()
        return loss_of_epoch

    def _step(self, optimizer: torch.optim.Optimizer, chosen: Int64[Tensor, " batch"], epoch: int) -> Float[Tensor, ""]:
        optimizer.zero_grad(set_to_none=True)
        loss = self._add_gradient(self.hear(chosen), self.targets.batch(chosen, epoch))
        grad_norm = nn.utils.clip_grad_norm_(self._parameters(), MAX_GRAD_NORM)
        optimizer.step()
        self.watch.note_step(epoch, loss, grad_norm)
        return loss

    def _add_gradient(self, encode: Encode, targets: TargetBatch) -> Float[Tensor, ""]:
        """Leave the gradient of the batch's mean loss a token in the parameters, one micro-batch after the other."""
        device = next(self.captioner.parameters()).device
        num_tokens = int(targets.in_loss.sum())
        size = self.plan.config.microbatch_size or len(targets.tokens)
        in_bfloat16 = trains_in_bfloat16(self.captioner.scoring_parameters(), self.plan.config.precision)
        total = torch.zeros((), device=device)
        for start in range(0, len(targets.tokens), size):
            rows = slice(start, start + size)
            with torch.autocast(device.type, torch.bfloat16, in_bfloat16):
                log_probs = self._log_probs(encode(rows), targets.rows(rows))
            loss = -log_probs.sum() / num_tokens
            torch.autograd.backward(loss)
            total += loss.detach()
        return total

    def _log_probs(self, encoding: Encoding, targets: TargetBatch) -> Float[Tensor, "batch token"]:
        """Score captions, one a clip; 0 where a token has no part in the loss."""
        device = encoding.states.device
        tokens, mask, in_loss = (one.to(device) for one in (targets.tokens, targets.mask, targets.in_loss))
        output = self.captioner.log_probs(encoding, torch.arange(len(tokens), device=device), tokens, mask, 1.0)
        return torch.where(in_loss, output.log_probs, 0.0)

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.plan.groups for parameter in group["params"]]


def _warmup_then_cosine(num_steps: int) -> Callable[[int], float]:
    warmup = max(1, round(WARMUP_SHARE * num_steps))

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))

    return scale
