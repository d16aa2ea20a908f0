"""New prefix captioners: around a small GPT-2, or a language model and an audio tower that are there already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    ClapConfig,
    ClapFeatureExtractor,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rlcap.captioners.audio_encoders import ClapEncoder
from rlcap.captioners.captioner import Encoding
from rlcap.captioners.checkpoint_files import in_a_sentence
from rlcap.captioners.hf_checkpoints import load_model, read_part
from rlcap.captioners.master_weights import CPU, held_in, hold_masters
from rlcap.captioners.prefix import PrefixCaptioner, PrefixCaptionerConfig
from rlcap.captioners.tuned_parts import TunedParts
from rlcap.config.captioner import CaptionerConfig, Mapper
from rlcap.errors import CheckpointError
from rlcap.finite_weights import refuse_loaded

LANGUAGE_MODEL, AUDIO_ENCODER = "captioner.language_model", "captioner.audio_encoder"


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
    return _assemble(config, language_model, tokenizer, encoder_channels, dropout)


def build_around_language_model(
    config: CaptionerConfig, *, encoder_channels: Sequence[int], dropout: float, device: torch.device = CPU
) -> PrefixCaptioner:
    """Make a new prefix captioner around the language model in `config.language_model`, to be trained on `device`.

    Raises:
        CheckpointError: the language model or the audio encoder cannot be read, or not be used.
    """
    directory = Path(config.language_model)
    with _named(LANGUAGE_MODEL, directory):
        tokenizer = _read_tokenizer(directory)
        language_model = load_model(AutoModelForCausalLM, directory)
    num_rows = language_model.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_rows:
        raise CheckpointError(
            f"{LANGUAGE_MODEL}={directory} has vectors for {num_rows} tokens, and its tokenizer knows {len(tokenizer)}"
        )
    captioner = _assemble(config, language_model, tokenizer, encoder_channels, dropout, device).eval()
    # In less than float32 rounding would pass for wrong scores.
    with _named(LANGUAGE_MODEL, directory), held_in(torch.float32, language_model):
        refuse_loaded(language_model.state_dict(), "it")
        _check_scores(captioner)
    return captioner


def check_parts(config: CaptionerConfig) -> None:
    """Refuse parts that cannot be used, as far as that shows without their weights.

    Raises:
        CheckpointError: names the setting, and what is wrong with the directory.
    """
    if config.language_model:
        with _named(LANGUAGE_MODEL, Path(config.language_model)):
            _check_language_model(Path(config.language_model))
    if config.audio_encoder:
        with _named(AUDIO_ENCODER, Path(config.audio_encoder)):
            _check_clap(Path(config.audio_encoder))


def _assemble(
    config: CaptionerConfig,
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    encoder_channels: Sequence[int],
    dropout: float,
    device: torch.device = CPU,
) -> PrefixCaptioner:
    settings = PrefixCaptionerConfig(
        num_segments=config.prefix_length - 1,
        encoder_channels=tuple(encoder_channels),
        mapper_layers=config.mapper_layers if config.mapper is Mapper.transformer else 0,
        prefix_dropout=dropout,
    )
    tower = None
    if config.audio_encoder:
        with _named(AUDIO_ENCODER, Path(config.audio_encoder)):
            tower = ClapEncoder.of_clap(Path(config.audio_encoder))
            refuse_loaded(tower.state_dict(), "it")
    parts = TunedParts.of(config)
    captioner = PrefixCaptioner(settings, language_model, tokenizer, audio_tower=tower, parts=parts)
    captioner.tune()
    hold_masters(captioner, device)
    return captioner


def _read_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    tokenizer: PreTrainedTokenizerFast = read_part(AutoTokenizer, directory)
    if tokenizer.eos_token_id is None:
        raise CheckpointError("its tokenizer has no token that ends a caption: give it an eos_token")
    return tokenizer


def _check_language_model(directory: Path) -> None:
    found = read_part(AutoConfig, directory).model_type
    if found not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise CheckpointError(f"a {found} is no causal language model of transformers")
    _read_tokenizer(directory)


def _check_clap(directory: Path) -> None:
    found = read_part(AutoConfig, directory)
    if not isinstance(found, ClapConfig):
        raise CheckpointError(f"a ClapModel of transformers is expected, got a {found.model_type}")
    read_part(ClapFeatureExtractor, directory)


@torch.no_grad()
def _check_scores(captioner: PrefixCaptioner) -> None:
    """Refuse a model whose scores come out otherwise here than by itself: it does what we know nothing of."""
    model = captioner.language_model
    tokens = torch.tensor([[0, 0], [1, 0]])
    vectors = model.get_input_embeddings()(tokens)
    prefix, rows = Encoding(vectors[1:, 1:]), torch.tensor([0, 0])
    behind = torch.cat([prefix.states.expand(2, -1, -1), vectors[:, :1]], dim=1)
    expected = model(inputs_embeds=behind).logits[:, 1]
    state, _ = captioner.begin(prefix, rows, 1)
    stepped = captioner.step(state, tokens[:, 0])
    forced = captioner.hidden_states(prefix, rows, tokens, torch.ones_like(tokens, dtype=torch.bool))[1::2]
    for hidden in (stepped, forced):
        if not torch.allclose(captioner.logits(hidden), expected, rtol=1e-3, atol=1e-3):
            raise CheckpointError(f"the scores of a {model.config.model_type} come out wrong here: take another")


@contextmanager
def _named(setting: str, directory: Path) -> Iterator[None]:
    """Turn what goes wrong with a part into a sentence that begins with its setting."""
    try:
        with in_a_sentence("it is damaged"):
            yield
    except CheckpointError as fault:
        raise CheckpointError(f"{setting}={directory} cannot be used: {fault}") from fault
