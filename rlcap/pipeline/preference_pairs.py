"""Preference pairs: the baseline's captions, judged by simulated annotators, or what people have judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unicodedata import normalize

import numpy as np
import torch

from actors.sampler import sample_captions
from rlcap.captioners.captioner import Captioner
from rlcap.config.captioner import SamplingConfig
from rlcap.errors import DataError
from rlcap.pipeline.clips import CHUNK, SplitClips
from rlcap.pipeline.listening import HeardClips
from rlcap.pipeline.progress import announce, progress_bar
from rlcap.preferences.annotators import Annotators
from rlcap.preferences.pairs import PreferencePair, sift_pairs

SOURCE = "baseline"


def simulate_preferences(
    captioner: Captioner,
    heard: HeardClips,
    clips: SplitClips,
    pairs_per_clip: int,
    sampling: SamplingConfig,
    *,
    seed: int,
) -> list[PreferencePair]:
    """Sample captions in pairs for every clip and let the annotators vote; pairs of equal captions are left out.

    Raises:
        DataError: a clip has no label.
    """
    annotators, scenes = Annotators(clips.lexicon), clips.known_scenes()
    rng = np.random.default_rng([seed, 2])
    pairs: list[PreferencePair] = []
    chunks = torch.arange(len(heard.clip_ids)).split(CHUNK)
    with progress_bar("ask the simulated annotators", len(chunks)) as advance:
        for chunk in chunks:
            captions = _sample(captioner, heard, chunk, 2 * pairs_per_clip, sampling, seed)
            for row, index in enumerate(chunk.tolist()):
                scene = scenes[heard.positions[index]]
                mine = captions[row * 2 * pairs_per_clip : (row + 1) * 2 * pairs_per_clip]
                for caption_a, caption_b in zip(mine[::2], mine[1::2], strict=True):
                    if caption_a != caption_b:
                        votes = annotators.judge_pair(scene, caption_a, caption_b, rng)
                        pairs.append(PreferencePair(heard.clip_ids[index], caption_a, caption_b, votes, SOURCE, SOURCE))
            advance(f"{len(pairs)} pairs")
    return pairs


def read_given_pairs(path: Path, clips: SplitClips | None) -> list[PreferencePair]:
    """Read the pairs of a file that are about these clips, and announce how many are left out; None: read all.

    Raises:
        DataError: the file is missing, damaged or empty, or none of its pairs is about these clips.
    """
    stored = sift_pairs(path)
    given = stored.pairs
    if not given:
        raise DataError(f"{path} holds no preference pairs")
    if stored.quarantined:
        first = stored.quarantined[0]
        announce(f"{len(stored.quarantined)} rows of {path} are left out, the first: {first.path}: {first.reason}")
    if clips is None:
        return given
    given = _in_the_forms_of(clips.clip_ids, given)
    if {pair.clip_id for pair in given}.isdisjoint(clips.clip_ids):
        raise DataError(
            f"none of the {len(given)} preference pairs in {path} is about a clip of the split {clips.split.value}: "
            f"clip ids must be the same, and are such as {given[0].clip_id!r} there and {clips.clip_ids[0]!r} here"
        )
    return keep_pairs(given, clips.clip_ids, f"their clips are not in the split {clips.split.value}")


def _in_the_forms_of(clip_ids: Sequence[str], pairs: list[PreferencePair]) -> list[PreferencePair]:
    """Name clips as `clip_ids` does, where a pair has the other Unicode form of an id, and announce how many had."""
    known = set(clip_ids)
    forms = Counter(normalize("NFC", clip_id) for clip_id in known)
    by_form = {normalize("NFC", clip_id): clip_id for clip_id in known}

    def clip_id_of(pair: PreferencePair) -> str:
        form = normalize("NFC", pair.clip_id)
        return by_form[form] if pair.clip_id not in known and forms[form] == 1 else pair.clip_id

    renamed = [replace(pair, clip_id=clip_id_of(pair)) for pair in pairs]
    num_renamed = sum(new.clip_id != old.clip_id for new, old in zip(renamed, pairs, strict=True))
    if num_renamed:
        announce(
            f"{num_renamed} preference pairs name their clips in another Unicode form, which is taken for the same"
        )
    return renamed


def keep_pairs(pairs: Sequence[PreferencePair], clip_ids: Sequence[str], why_not: str) -> list[PreferencePair]:
    """Keep the pairs of these clips; announce how many others there are, and why they are left out."""
    known = set(clip_ids)
    kept = [pair for pair in pairs if pair.clip_id in known]
    if len(kept) < len(pairs):
        announce(f"{len(pairs) - len(kept)} of {len(pairs)} preference pairs are left out: {why_not}")
    return kept


@torch.inference_mode()
def _sample(
    captioner: Captioner,
    heard: HeardClips,
    chunk: torch.Tensor,
    samples_per_clip: int,
    sampling: SamplingConfig,
    seed: int,
) -> tuple[str, ...]:
    frames = torch.from_numpy(heard.audio.frames)[chunk]
    frame_mask = torch.from_numpy(heard.audio.frame_mask)[chunk]
    sampled = sample_captions(
        captioner,
        captioner.encode(frames, frame_mask),
        torch.arange(len(chunk)).repeat_interleave(samples_per_clip),
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        generator=torch.Generator().manual_seed(seed + int(chunk[0])),
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )
    return captioner.decode(sampled.tokens, sampled.action_mask)
