"""Policies and captions of given sizes, with random weights: speed does not depend on what they have learnt."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from rlcap.captioners.prefix import PrefixCaptioner, PrefixCaptionerConfig
from rlcap.captioners.tokenizer import build_word_tokenizer

VOCABULARY_SIZE = 4400
"""About the words of Clotho's captions."""
NUM_CLIPS, SAMPLES_PER_CLIP, MAX_TOKENS = 32, 4, 24
PREFIX_LENGTH = 9
NUM_FRAMES = 40
"""Of a frozen encoder's output, a clip."""


@dataclass(frozen=True, slots=True)
class PolicySize:
    """A decoder."""

    num_layers: int
    width: int
    num_heads: int

    @property
    def name(self) -> str:
        """Layers and width, such as 2x128."""
        return f"{self.num_layers}x{self.width}"


SIZES = (PolicySize(2, 128, 4), PolicySize(6, 384, 6))


@dataclass(frozen=True, slots=True)
class Workload:
    """How captions end."""

    name: str
    end_rate: float
    """Probability of each token to be the last one; the limit ends the others."""


WHOLE, RAGGED = Workload("all of 24 tokens", 0.0), Workload("ending by themselves", 1 / 12)


def bench_policy(size: PolicySize, workload: Workload, device: torch.device) -> PrefixCaptioner:
    """Make a prefix captioner that ends its captions as the workload says."""
    tokenizer = build_word_tokenizer(f"word{number}" for number in range(VOCABULARY_SIZE))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=64,
            n_embd=size.width,
            n_layer=size.num_layers,
            n_head=size.num_heads,
            activation_function="gelu_pytorch_tanh",
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        language_model = GPT2LMHeadModel(config)
        language_model.lm_head = _head(size.width, len(tokenizer), tokenizer.eos_token_id, workload.end_rate)
        captioner = PrefixCaptioner(PrefixCaptionerConfig(), language_model, tokenizer)
    return captioner.eval().to(device)


def _head(width: int, vocabulary_size: int, eos_token_id: int, end_rate: float) -> nn.Linear:
    """Project to nearly equal scores, but for the end of the caption."""
    head = nn.Linear(width, vocabulary_size)
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.zero_()
        odds = end_rate / (1 - end_rate)
        head.bias[eos_token_id] = math.log(vocabulary_size * odds) if odds else -1e4
    return head


def bench_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Time one call, to the end of what it has started on the device."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
