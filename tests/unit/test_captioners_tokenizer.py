from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlcap.captioners.tokenizer import EOS, PAD, UNKNOWN, build_word_tokenizer
from rlcap.soundscapes.grammar import vocabulary
from rlcap.soundscapes.lexicon import Lexicon
from rlcap.soundscapes.world import LABELS


def words_of(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    return str(tokenizer.decode(tokenizer(text).input_ids))


@pytest.mark.parametrize("text", ["A dog barks.", "a dog, barks!", "  A DOG\tbarks ", '"a dog" barks...'])
def test_case_and_punctuation_of_a_human_caption_make_no_word_unknown(text: str, tmp_path: Path):
    tokenizer = build_word_tokenizer(["a dog barks"])
    assert words_of(tokenizer, text) == "a dog barks"
    tokenizer.save_pretrained(tmp_path)
    assert words_of(AutoTokenizer.from_pretrained(tmp_path, local_files_only=True), text) == "a dog barks"


def test_the_words_of_whole_captions_are_known_and_others_are_not():
    tokenizer = build_word_tokenizer(["A man's high-pitched voice.", "the", "voice"])
    assert sorted(tokenizer.get_vocab()) == sorted([PAD, EOS, UNKNOWN, "a", "high", "man's", "pitched", "the", "voice"])
    assert tokenizer.tokenize("The man's whistle") == ["the", "man's", UNKNOWN]


def test_the_words_of_the_synthetic_world_are_taken_as_they_are():
    words = vocabulary(Lexicon.for_labels(LABELS))
    tokenizer = build_word_tokenizer(words)
    assert sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__) == [PAD, EOS, UNKNOWN, *words]
