"""Checks on `save`, `load`, `tokenize` and `decode`: what is kept comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from rlcap.captioners.captioner import Captioner
from rlcap.captioners.loading import load_captioner
from rlcap.captioners.tuned_captioner import TunedCaptioner
from rlcap.config.precision import SaveDtype
from rlcap.conformance.findings import Finding, check, gaps, judge
from rlcap.conformance.subject import TEXTS, Subject

NUM_WORDS = 50


@check(
    "saved and loaded, it is the same captioner",
    expected="the class, log-probs and values of the captioner whose moved weights were saved, to 1e-4",
    remedy="write every weight in `save`, frozen ones and the value head too, and read them all in `load`",
)
def saved_and_loaded(subject: Subject) -> Finding:
    """Move the weights, save, load as actors do, and hear and score the same clips."""
    with TemporaryDirectory() as folder, subject.moved(), _saved_in_float32(subject.captioner):
        directory = Path(folder) / "captioner"
        subject.captioner.save(directory)
        loaded = load_captioner(directory).float().to(subject.device)
        if type(loaded) is not type(subject.captioner):
            return Finding(passed=False, got=f"a {type(loaded).__name__} from {type(subject.captioner).__name__}.save")
        expected = subject.score(encoding=subject.encode(subject.features))
        heard = subject.encode(loaded.features(subject.clips), loaded)
        return judge(gaps("of the one that was loaded", subject.score(captioner=loaded, encoding=heard), expected))


@check(
    "captions come back from their tokens",
    expected="captions closed by eos_token_ids[0], padded by pad_token_id, the same once decoded and tokenised again",
    remedy="keep `tokenize` and `decode` as Captioner has them, and set tokenizer, eos_token_ids and pad_token_id",
)
def tokens_and_text(subject: Subject) -> Finding:
    """Tokenise, decode what is inside the mask, and do so again."""
    captioner = subject.captioner
    tokens, mask = captioner.tokenize(TEXTS)
    ends = tokens.gather(1, mask.sum(dim=1, keepdim=True) - 1)
    if (ends != captioner.eos_token_ids[0]).any() or (tokens[~mask] != captioner.pad_token_id).any():
        return Finding(passed=False, got=f"tokens {tokens.tolist()}, mask {mask.long().tolist()}")
    texts = captioner.decode(tokens, mask)
    noise = torch.where(mask, tokens, tokens[:, :1])  # whatever stands behind the end
    again = captioner.decode(*captioner.tokenize(texts))
    for one, other in ((texts, captioner.decode(noise, mask)), (texts, again)):
        changed = [f"{new!r} from {old!r}" for old, new in zip(one, other, strict=True) if old != new]
        if changed:
            return Finding(passed=False, got=changed[0])
    return Finding(bool(_some_words(captioner)), f"{texts[0]!r} from {TEXTS[0]!r}")


KEEPING = (saved_and_loaded, tokens_and_text)


@contextmanager
def _saved_in_float32(captioner: Captioner) -> Iterator[None]:
    """Leave out the rounding to the precision of a checkpoint: it would hide small faults."""
    if not isinstance(captioner, TunedCaptioner):
        yield
        return
    parts = captioner.parts
    captioner.parts = replace(parts, save_dtype=SaveDtype.float32)
    try:
        yield
    finally:
        captioner.parts = parts


def _some_words(captioner: Captioner) -> str:
    """Decode the first tokens of the vocabulary that are not special ones; it may be of any language."""
    special = {*captioner.tokenizer.all_special_ids}
    words = [token for token in range(len(captioner.tokenizer)) if token not in special][:NUM_WORDS]
    tokens = torch.tensor([words])
    return captioner.decode(tokens, torch.ones_like(tokens, dtype=torch.bool))[0]
