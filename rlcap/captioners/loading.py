"""Captioners by directory: the family in `config.json` picks the class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from rlcap.captioners.captioner import Captioner
from rlcap.captioners.families import family_of
from rlcap.captioners.prefix import PrefixCaptioner, PrefixCaptionerConfig
from rlcap.captioners.pretrained import PretrainedCaptioner
from rlcap.captioners.tuned_parts import TunedParts
from rlcap.config.captioner import CaptionerConfig
from rlcap.errors import CheckpointError, in_one_line

# A bar for each of a captioner's files says nothing and breaks ours; what does not fit is said by our errors.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


def load_captioner(directory: str | Path) -> Captioner:
    """Load a captioner that `save` wrote, or any checkpoint of a family known here, in evaluation mode.

    Raises:
        CheckpointError: the directory is missing, damaged, or of a family or architecture not known here.
    """
    directory = Path(directory)
    family = family_of(directory)
    with _told_in_one_line(directory):
        return family.load(directory).eval()


def adopt_captioner(directory: str | Path, config: CaptionerConfig) -> Captioner:
    """Load a captioner to begin a run with; where its family allows it, `config` says what is tuned of it.

    Raises:
        CheckpointError: as for `load_captioner`.
    """
    directory = Path(directory)
    family = family_of(directory)
    with _told_in_one_line(directory):
        if issubclass(family, PretrainedCaptioner):
            return family.adopt(directory, TunedParts.of(config)).eval()
        return family.load(directory).eval()


@contextmanager
def _told_in_one_line(directory: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError) as damage:
        raise CheckpointError(f"the captioner in {directory} cannot be loaded: {in_one_line(damage)}") from damage


def build_prefix_captioner(
    config: CaptionerConfig,
    tokenizer: PreTrainedTokenizerFast,
    *,
    encoder_channels: Sequence[int],
    dropout: float,
) -> PrefixCaptioner:
    """Make a new prefix captioner around a small GPT-2, randomly initialised."""
    language_model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=config.prefix_length + config.max_caption_tokens,
            n_embd=config.width,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one pass instead of eight
            embd_pdrop=dropout,
            resid_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    settings = PrefixCaptionerConfig(
        num_segments=config.prefix_length - 1,
        encoder_channels=tuple(encoder_channels),
        freeze_encoder=config.freeze_encoder,
        prefix_dropout=dropout,
    )
    return PrefixCaptioner(settings, language_model, tokenizer)
