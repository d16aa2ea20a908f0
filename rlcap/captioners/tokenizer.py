"""A word-level tokenizer for captioners that are built from scratch."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


def build_word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer that knows exactly the words of these texts; case and punctuation are dropped."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = words_alone()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = {word for text in texts for word in tokenizer.normalizer.normalize_str(text).split()}
    vocabulary = {token: index for index, token in enumerate([PAD, EOS, UNKNOWN, *sorted(words)])}
    tokenizer.model = models.WordLevel(vocabulary, unk_token=UNKNOWN)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )


def words_alone() -> normalizers.Normalizer:
    """Make what turns "A dog barks." into "a dog barks", for captioner and CLAP alike; apostrophes stay."""
    return normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s']|_"), " ")]
    )
