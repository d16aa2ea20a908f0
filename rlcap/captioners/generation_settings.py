"""How `generate` of plain transformers is to go on with a model that was tuned here: from its scores as they are."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import GenerationConfig

from rlcap.errors import CheckpointError

RESHAPING = (
    *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "sequence_bias", "exponential_decay_length_penalty", "min_length", "min_new_tokens"),
    *("forced_eos_token_id", "guidance_scale", "watermarking_config", "penalty_alpha", "dola_layers"),
    *("num_beams", "early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty", "constraints"),
    *("force_words_ids", "num_return_sequences"),
    *("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
)
"""By which another token may be written next than one drawn from the model's scores."""
REPORTING = (
    *("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states"),
    *("cache_implementation", "cache_config"),
)
"""What `generate` returns and how it computes: nothing that a checkpoint has to say."""
WHOLE_DISTRIBUTION = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
"""Sampling from all scores: where nothing is said, `generate` takes the 50 most probable tokens."""


def eos_token_ids(settings: GenerationConfig, of_tokenizer: int | None) -> tuple[int, ...]:
    """Return what ends a caption: the tokenizer's token, and those of the generation settings, which may be several.

    Raises:
        CheckpointError: neither names one.
    """
    known = settings.eos_token_id
    listed = known if isinstance(known, list) else [known]
    found = tuple(dict.fromkeys(token for token in (of_tokenizer, *listed) if token is not None))
    if not found:
        raise CheckpointError("its tokenizer has no token that ends a caption: give it an eos_token")
    return found


def generate_as_tuned(
    settings: GenerationConfig,
    *,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    forbidden_tokens: Sequence[int] = (),
    forbidden_first_tokens: Sequence[int] = (),
) -> None:
    """Have `generate` draw from the distribution that is tuned here, where published settings reshape it.

    They also combine in ways that transformers reads, and refuses to write (a temperature without sampling).
    """
    for name in (*RESHAPING, *REPORTING):
        setattr(settings, name, WHOLE_DISTRIBUTION.get(name) if settings.do_sample else None)
    settings.eos_token_id = list(eos_token_ids) if len(eos_token_ids) > 1 else eos_token_ids[0]
    settings.pad_token_id = pad_token_id
    settings.suppress_tokens = list(forbidden_tokens) or None
    settings.begin_suppress_tokens = list(forbidden_first_tokens) or None
