"""Reward terms that read the caption alone. Each lies in [-1, 0]: 0 for a caption without the fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32

from rlcap.config.reward import TextTermsConfig
from rlcap.preferences.reading import repeated_share

# Words that ask for another one: a caption that ends on one of them was cut off.
_ARTICLES = ("a", "an", "the", "its", "their", "his", "her", "this", "that", "which", "who")
_JOINS = ("and", "or", "but", "while", "as", "then", "before", "after", "for", "followed", "amid")
_PLACES = ("by", "with", "from", "of", "in", "on", "at", "to", "into", "over", "near")
_VERBS = ("is", "are", "was", "were", "be", "being")
_DANGLING = frozenset((*_ARTICLES, *_JOINS, *_PLACES, *_VERBS))


def repetition(caption: str, _: TextTermsConfig) -> float:
    """Minus the share of pairs of neighbouring words that repeat an earlier pair."""
    return -repeated_share(_words(caption), order=2)


def length(caption: str, config: TextTermsConfig) -> float:
    """Minus the words below the shortest or above the longest wanted length, as a share of that length; at worst -1."""
    num_words = len(_words(caption))
    missing = max(0, config.min_words - num_words) / config.min_words
    excess = max(0, num_words - config.max_words) / config.max_words
    return -min(1.0, missing + excess)


def unfinished(caption: str, _: TextTermsConfig) -> float:
    """-1 for a caption that ends on a word which asks for another, or that holds no word."""
    words = _words(caption)
    return -1.0 if not words or words[-1] in _DANGLING else 0.0


def full_stop(caption: str, _: TextTermsConfig) -> float:
    """-1 for a caption that does not end with a full stop, exclamation or question mark."""
    return 0.0 if caption.rstrip().endswith((".", "!", "?")) else -1.0


TERMS: dict[str, Callable[[str, TextTermsConfig], float]] = {
    "repetition": repetition,
    "length": length,
    "unfinished": unfinished,
    "full_stop": full_stop,
}
"""The terms by the name of their weight in `TextTermsConfig`."""


def weighted_terms(captions: Sequence[str], config: TextTermsConfig) -> Float32[np.ndarray, " caption"]:
    """Sum of the weighted terms of each caption."""
    total = np.zeros(len(captions), dtype=np.float32)
    for name, term in TERMS.items():
        weight: float = getattr(config, name)
        if weight:
            total += weight * np.array([term(caption, config) for caption in captions], dtype=np.float32)
    return total


def _words(caption: str) -> list[str]:
    return [word for word in (token.strip(".,;:!?\"'()") for token in caption.lower().split()) if word]
