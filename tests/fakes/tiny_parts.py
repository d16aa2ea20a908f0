"""Real architectures of transformers at their smallest, with random weights: what captioners are made of."""

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    OPTConfig,
)

from rlcap.captioners.tokenizer import build_word_tokenizer

WORDS = ("a", "dog", "barks", "rain", "falls", "then")
TOKENIZER = build_word_tokenizer(WORDS)
OF_LLAMAS = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
}
LANGUAGE_MODELS = {
    "gpt2": (GPT2Config, {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}),
    # Its states are projected down to the vectors of its tokens, as in OPT-350m.
    "opt": (
        OPTConfig,
        {
            "hidden_size": 16,
            "word_embed_proj_dim": 12,
            "num_hidden_layers": 2,
            "ffn_dim": 32,
            "num_attention_heads": 2,
            "max_position_embeddings": 40,
        },
    ),
    "llama": (LlamaConfig, OF_LLAMAS),
    # Counts positions and masks in its own way.
    "bloom": (BloomConfig, {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    # These scale or cap their scores at last.
    "granite": (GraniteConfig, {**OF_LLAMAS, "logits_scaling": 4.0}),
    "cohere": (CohereConfig, OF_LLAMAS),
    "gemma2": (Gemma2Config, {**OF_LLAMAS, "head_dim": 4, "final_logit_softcapping": 1.0}),
}


def build_language_model(kind, seed=3):
    """A model whose captions differ from clip to clip and end at any length."""
    eos = TOKENIZER.eos_token_id
    config_class, sizes = LANGUAGE_MODELS[kind]
    special = {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": TOKENIZER.pad_token_id}
    config = config_class(vocab_size=len(TOKENIZER), **special, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def save_language_model(kind, directory, seed=3):
    """Write a model and its tokenizer as a user has them."""
    build_language_model(kind, seed).save_pretrained(directory)
    TOKENIZER.save_pretrained(directory)
    return directory


def save_clap(directory, *, fused=False):
    """Write a `ClapModel` whose clips are one second long."""
    text = {"vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 16, "max_position_embeddings": 20, "pad_token_id": 1}
    audio = {"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16}
    audio |= {"enable_fusion": fused, "fusion_type": "aff_2d" if fused else None, "enable_patch_layer_norm": True}
    audio |= {"num_hidden_layers": 2, "aff_block_r": 2, "spec_size": 64, "num_mel_bins": 16, "window_size": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=12))
    model.save_pretrained(directory)
    extractor = ClapFeatureExtractor(
        feature_size=16, max_length_s=1, nb_max_samples=48_000, truncation="fusion" if fused else "rand_trunc"
    )
    extractor.save_pretrained(directory)
    return directory
