"""The text tower of the small CLAP: words of the training captions through a two-layer transformer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from reward_server.transformer import TransformerLayer, masked_mean
from rlcap.captioners.tokenizer import words_alone

PAD, UNKNOWN, START = "[PAD]", "[UNK]", "[CLS]"


def build_word_tokenizer(captions: Sequence[str], max_words: int) -> PreTrainedTokenizerFast:
    """Tokenizer with one token for each word of these captions; case and punctuation are dropped.

    Every text begins with a start token, so that even an empty caption has something to pool.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = words_alone()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    counts: Counter[str] = Counter()
    for caption in captions:
        words = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(caption))
        counts.update(word for word, _ in words)
    ordered = [PAD, UNKNOWN, START, *sorted(counts, key=lambda word: (-counts[word], word))]
    vocabulary = {word: index for index, word in enumerate(ordered)}
    tokenizer.model = models.WordLevel(vocabulary, unk_token=UNKNOWN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, vocabulary[START])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=START,
        model_max_length=max_words,
        padding_side="right",
    )


class TextTower(nn.Module):
    """Token ids to one embedding."""

    def __init__(self, vocab_size: int, width: int, num_layers: int, num_heads: int, max_words: int, dim: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_words, width)
        nn.init.normal_(self.tokens.weight, std=0.1)
        nn.init.normal_(self.positions.weight, std=0.1)
        self.layers = nn.ModuleList(TransformerLayer(width, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Sequential(nn.Linear(2 * width, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(
        self, token_ids: Int64[Tensor, "caption token"], mask: Bool[Tensor, "caption token"]
    ) -> Float[Tensor, "caption dim"]:
        """Embed each caption; the embedding is not normalised."""
        embedded: Tensor = self.projection(self.pool(token_ids, mask))
        return embedded

    def pool(
        self, token_ids: Int64[Tensor, "caption token"], mask: Bool[Tensor, "caption token"]
    ) -> Float[Tensor, "caption pooled"]:
        """Everything up to the projection."""
        places = torch.arange(token_ids.shape[1], device=token_ids.device)
        hidden = self.tokens(token_ids) + self.positions(places)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        hidden = self.norm(hidden)
        return torch.cat([hidden[:, 0], masked_mean(hidden, mask.float())], dim=1)
