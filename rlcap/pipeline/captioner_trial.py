"""A trial of a captioner that is given: read, tuned, saved and read again, before a run spends hours on it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from rlcap.captioners.captioner import Captioner
from rlcap.captioners.loading import adopt_captioner, load_captioner
from rlcap.captioners.prefix_parts import build_around_language_model, check_parts
from rlcap.captioners.tokenizer import words_alone
from rlcap.config.data import Split
from rlcap.config.run import RunConfig
from rlcap.errors import CheckpointError, ConfigError, DataError, in_one_line
from rlcap.pipeline.progress import announce
from rlcap.types import Clip

SAVED_WHOLE_BYTES = 2 * 10**9
"""Larger captioners are not written for a trial: of them only what lies beside the weights is."""
SAMPLE_RATE_HZ = 16_000
FLOAT32_BYTES = 4
OFTEN = 0.05
"""Share of captions from which on it is worth a line that they are cut."""


@dataclass(frozen=True, slots=True)
class TriedCaptioner:
    """What the trial of a captioner has shown."""

    name: str
    """How messages call it: where it lies."""
    num_bytes: int
    """Of its weights, on disk."""
    num_trained: int
    """Weights that are trained."""
    longest_caption: int | None
    """Tokens that its decoder has positions for, the one that ends a caption included; None where there is no bound."""
    tokenizer: PreTrainedTokenizerBase | None
    """None for a new captioner, whose words are those of its captions."""


def try_captioner(config: RunConfig) -> TriedCaptioner:
    """Try the captioner, or the parts of one, that the settings name; of a new one there is nothing to try.

    Raises:
        CheckpointError: it cannot be read, tuned, saved, or written with as the settings say.
        ConfigError: its decoder has no room for `sampling.max_new_tokens`.
    """
    settings = config.captioner
    if settings.checkpoint:
        captioner = adopt_captioner(settings.checkpoint, settings, to_teach=True)
    elif settings.language_model:
        check_parts(settings)
        channels, dropout = config.reward.clap.audio_channels, config.sft.dropout
        captioner = build_around_language_model(settings, encoder_channels=channels, dropout=dropout)
    else:
        num_weights = 12 * settings.num_layers * settings.width**2  # of its blocks; words and tower are small
        return TriedCaptioner("", FLOAT32_BYTES * num_weights, num_weights, settings.max_caption_tokens, None)
    name = settings.checkpoint or settings.language_model
    _try_tokenizer(captioner, name)
    room = _try_writing(captioner.eval(), config, name)
    num_bytes = _try_saving(captioner, name)
    return TriedCaptioner(name, num_bytes, sum(each.numel() for each in _trained(captioner)), room, captioner.tokenizer)


def check_taught(captions: Sequence[str], split: Split, captioner: TriedCaptioner, max_new_tokens: int) -> None:
    """Refuse captions of which a tokenizer knows no word; announce those that are too long to be written whole.

    Raises:
        DataError: the captioner cannot be taught them.
    """
    lengths = _lengths(captions, captioner)
    longest, room = max(lengths), captioner.longest_caption
    if room is not None and longest > room:
        which, way_out = "a new captioner", f"set captioner.max_caption_tokens={longest} to teach them whole"
        if captioner.name:
            which, way_out = captioner.name, "another captioner may have more"
        too_long = sum(length > room for length in lengths)
        begins = captions[lengths.index(longest)][:60]
        announce(
            f"{too_long} of {len(lengths)} captions of the split {split.value} are longer than the {room} tokens that "
            f"{which} has positions for, and are cut; the longest has {longest}, and begins {begins!r}: {way_out}"
        )
    num_cut = sum(length > max_new_tokens for length in lengths)
    if num_cut > OFTEN * len(lengths):
        announce(
            f"{num_cut} of {len(lengths)} captions of the split {split.value} are longer than "
            f"sampling.max_new_tokens={max_new_tokens}, where sampled captions end; the longest has {longest}"
        )


def _lengths(captions: Sequence[str], captioner: TriedCaptioner) -> list[int]:
    """Count the tokens of each caption, the one that ends it included."""
    if captioner.tokenizer is None:
        words = words_alone()
        return [len(words.normalize_str(text).split()) + 1 for text in captions]
    ids = captioner.tokenizer(list(captions), add_special_tokens=False).input_ids
    unknown = captioner.tokenizer.unk_token_id
    if all(token == unknown for row in ids for token in row):
        raise DataError(
            f"the tokenizer of {captioner.name} knows no word of these captions, such as {captions[0][:60]!r}: take a "
            "captioner of their language"
        )
    return [len(row) + 1 for row in ids]


def _try_tokenizer(captioner: Captioner, name: str) -> None:
    """Refuse a tokenizer that does not belong to the model: its tokens would have no vectors."""
    tokens, _ = captioner.tokenize(["a dog barks while rain falls"])
    known = [module.num_embeddings for module in captioner.modules() if isinstance(module, torch.nn.Embedding)]
    largest = max(int(tokens.max()), captioner.pad_token_id, *captioner.eos_token_ids)
    if known and largest >= max(known):
        raise CheckpointError(
            f"the tokenizer in {name} writes token {largest}, and its model has vectors for {max(known)}: they do not "
            "belong together"
        )


@torch.no_grad()
def _try_writing(captioner: Captioner, config: RunConfig, name: str) -> int | None:
    """Write two tokens behind a clip as long as any; return how many tokens there is room for behind it."""
    longest_s, max_new_tokens = config.data.max_duration_s, config.sampling.max_new_tokens
    waveform = 0.01 * np.random.default_rng(0).standard_normal(round(longest_s * SAMPLE_RATE_HZ))
    with _told(name, "cannot write captions"):
        features = captioner.features([Clip("trial", waveform.astype(np.float32), SAMPLE_RATE_HZ)])
        encoding = captioner.encode(torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask))
        room = captioner.longest_caption(encoding)
        if room is not None and max_new_tokens > room:
            raise ConfigError(
                f"sampling.max_new_tokens must be at most {room}, the positions that {name} has left behind its prompt "
                f"and a clip of data.max_duration_s={longest_s:g} s, got {max_new_tokens}"
            )
        state, hidden = captioner.begin(encoding, torch.tensor([0]), 2)
        captioner.step(state, captioner.next_token_logits(hidden, torch.tensor([True])).argmax(dim=-1))
    return room


def _try_saving(captioner: Captioner, name: str) -> int:
    """Save the captioner as it is tuned, whole or but for its weights, and read it again; returns bytes on disk."""
    in_memory = sum(each.numel() * each.element_size() for each in captioner.parameters())
    with tempfile.TemporaryDirectory(prefix="rlcap-trial-") as folder, _told(name, "cannot be saved as it is tuned"):
        if in_memory > SAVED_WHOLE_BYTES:
            _save_beside_weights(captioner, Path(folder))
            return _weights_in(Path(name))
        captioner.save(Path(folder))
        load_captioner(folder)
        return _weights_in(Path(folder))


def _weights_in(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*.safetensors"))


def _trained(captioner: Captioner) -> Iterator[torch.nn.Parameter]:
    return (each for each in captioner.parameters() if each.requires_grad)


def _save_beside_weights(captioner: Captioner, folder: Path) -> None:
    for module in captioner.children():
        if isinstance(module, PreTrainedModel):
            module.config.save_pretrained(folder)
            module.generation_config.save_pretrained(folder)
    processor = getattr(captioner, "processor", None)
    (processor if isinstance(processor, ProcessorMixin) else captioner.tokenizer).save_pretrained(folder)


@contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    """Say in a sentence what went wrong, which may be anything: the libraries below raise what they like."""
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, SafetensorError) as fault:
        raise CheckpointError(f"the captioner in {name} {what}: {in_one_line(fault)}") from fault
