"""TRL's side: `python trl_side.py grpo|rloo NUM_STEPS NUM_THREADS`, in the environment that compare.py makes."""

from __future__ import annotations

import sys
import tempfile
import time

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from workload import (
    KL_COEF,
    LEARNING_RATE,
    NUM_CAPTIONS,
    NUM_PROMPTS,
    NUM_TOKENS,
    NUM_WARM_UP,
    PROMPT_LENGTH,
    SAMPLES_PER_PROMPT,
    gpt2,
    rewards_of,
    tell,
    tokenizer,
)

TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


class _Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ends.append(time.perf_counter())


def main(kind: str, num_steps: int, num_threads: int) -> None:
    """Train, and tell the median step."""
    torch.set_num_threads(num_threads)
    trainer_class, config_class = TRAINERS[kind]
    words = tokenizer()
    words.padding_side = "left"
    lengths: list[int] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return rewards_of(completions)

    clock = _Clock()
    with tempfile.TemporaryDirectory() as directory:
        gpt2(words).save_pretrained(directory)  # TRL loads its reference from where the policy came from
        trainer = trainer_class(
            model=directory,
            reward_funcs=reward,
            processing_class=words,
            train_dataset=Dataset.from_list(_prompts(num_steps + NUM_WARM_UP)),
            callbacks=[clock],
            args=config_class(
                output_dir=directory,
                model_init_kwargs={"dtype": "float32"},
                per_device_train_batch_size=NUM_CAPTIONS,
                num_generations=SAMPLES_PER_PROMPT,
                max_completion_length=NUM_TOKENS,
                temperature=1.0,
                beta=KL_COEF,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                max_steps=num_steps + NUM_WARM_UP,
                gradient_checkpointing=False,
                use_cpu=True,
                bf16=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
        )
        trainer.train()
    tell(
        [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)], sum(lengths) / len(lengths)
    )


def _prompts(num_steps: int) -> list[dict[str, str]]:
    number = range(num_steps * NUM_PROMPTS)
    return [{"prompt": " ".join(f"word{(7 * row + place) % 4400}" for place in range(PROMPT_LENGTH))} for row in number]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
