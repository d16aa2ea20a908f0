"""Train a baseline on recordings with captions: `python -m dcase_captioner.make_baseline captions.csv my-captioner`."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch

from dcase_captioner.captioner import DcaseCaptioner
from dcase_captioner.network import DcaseConfig
from learner.supervised import supervise
from rlcap.audio.decoding import DecodeLimits, decode
from rlcap.captioners.tokenizer import build_word_tokenizer
from rlcap.config.captioner import SftConfig


def new_captioner(captions: list[str], *, seed: int = 0) -> DcaseCaptioner:
    """Make a captioner of random weights that knows the words of these captions."""
    tokenizer = build_word_tokenizer(captions)
    torch.manual_seed(seed)
    return DcaseCaptioner(DcaseConfig(vocab_size=len(tokenizer)), tokenizer)


def main() -> None:
    """Read a table with the columns `audio`, relative to its folder, and `caption`; write a captioner directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("captioner", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    with arguments.table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    clips = [decode(arguments.table.parent / row["audio"], row["audio"], DecodeLimits()) for row in rows]
    captions = [row["caption"] for row in rows]
    captioner = new_captioner(captions)
    supervise(
        captioner,
        captioner.features(clips),
        [[caption] for caption in captions],
        SftConfig(num_epochs=arguments.epochs),
        seed=0,
        on_epoch=lambda epoch, loss: print(f"epoch {epoch + 1}: loss {loss:.2f}"),  # noqa: T201
    )
    captioner.save(arguments.captioner)


if __name__ == "__main__":
    main()
