"""What both sides of the comparison do: the sizes, the policy and the reward."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlcap.captioners.tokenizer import build_word_tokenizer

NUM_PROMPTS, SAMPLES_PER_PROMPT, NUM_TOKENS = 32, 4, 24
NUM_CAPTIONS = NUM_PROMPTS * SAMPLES_PER_PROMPT
PROMPT_LENGTH = 9
"""Words of a TRL prompt, and audio vectors in front of a caption in rlcap."""
VOCABULARY_SIZE = 4400
WIDTH, NUM_LAYERS, NUM_HEADS = 128, 2, 4
LEARNING_RATE, KL_COEF = 1e-5, 0.05
NUM_WARM_UP = 2
"""Steps that are not counted."""


def tokenizer() -> PreTrainedTokenizerFast:
    """Words, of which a caption never needs to end: all captions have their 24 tokens."""
    return build_word_tokenizer(f"word{number}" for number in range(VOCABULARY_SIZE))


def gpt2(words: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """The policy, with random weights and without dropout."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(words),
            n_positions=64,
            n_embd=WIDTH,
            n_layer=NUM_LAYERS,
            n_head=NUM_HEADS,
            activation_function="gelu_pytorch_tanh",
            embd_pdrop=0.0,
            resid_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=words.eos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def rewards_of(captions: Sequence[str]) -> list[float]:
    """Share of different words in each caption: costs next to nothing, so that the trainers are compared."""
    return [len(set(words)) / max(1, len(words)) for words in map(str.split, captions)]


def tell(step_s: Sequence[float], num_tokens: float) -> None:
    """Write what was measured, as the last line of the output: the parent process reads it."""
    median_s = statistics.median(step_s[NUM_WARM_UP:])
    found = {"step_ms": 1000 * median_s, "captions_per_s": NUM_CAPTIONS / median_s, "tokens_per_caption": num_tokens}
    sys.stdout.write(f"\n{json.dumps(found)}\n")
