"""Preference pairs of the baseline's captions, judged by simulated annotators."""

from __future__ import annotations

import numpy as np
import torch

from actors.sampler import sample_captions
from rlcap.captioners.captioner import Captioner
from rlcap.config.captioner import SamplingConfig
from rlcap.pipeline.clips import CHUNK, HeardClips, LabelledClips
from rlcap.pipeline.progress import progress_bar
from rlcap.preferences.annotators import Annotators
from rlcap.preferences.pairs import PreferencePair

SOURCE = "baseline"


def simulate_preferences(
    captioner: Captioner,
    heard: HeardClips,
    clips: LabelledClips,
    pairs_per_clip: int,
    sampling: SamplingConfig,
    *,
    seed: int,
) -> list[PreferencePair]:
    """Sample captions in pairs for every clip and let the annotators vote; pairs of equal captions are left out."""
    annotators = Annotators(clips.lexicon)
    rng = np.random.default_rng([seed, 2])
    pairs: list[PreferencePair] = []
    chunks = torch.arange(len(heard.clip_ids)).split(CHUNK)
    with progress_bar("ask the simulated annotators", len(chunks)) as advance:
        for chunk in chunks:
            captions = _sample(captioner, heard, chunk, 2 * pairs_per_clip, sampling, seed)
            for row, index in enumerate(chunk.tolist()):
                scene = clips.scenes[heard.positions[index]]
                mine = captions[row * 2 * pairs_per_clip : (row + 1) * 2 * pairs_per_clip]
                for caption_a, caption_b in zip(mine[::2], mine[1::2], strict=True):
                    if caption_a != caption_b:
                        votes = annotators.judge_pair(scene, caption_a, caption_b, rng)
                        pairs.append(PreferencePair(heard.clip_ids[index], caption_a, caption_b, votes, SOURCE, SOURCE))
            advance(f"{len(pairs)} pairs")
    return pairs


@torch.inference_mode()
def _sample(
    captioner: Captioner,
    heard: HeardClips,
    chunk: torch.Tensor,
    samples_per_clip: int,
    sampling: SamplingConfig,
    seed: int,
) -> tuple[str, ...]:
    frames = torch.from_numpy(heard.features.frames)[chunk]
    frame_mask = torch.from_numpy(heard.features.frame_mask)[chunk]
    sampled = sample_captions(
        captioner,
        captioner.encode(frames, frame_mask),
        torch.arange(len(chunk)).repeat_interleave(samples_per_clip),
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        generator=torch.Generator().manual_seed(seed + int(chunk[0])),
    )
    return captioner.decode(sampled.tokens, sampled.action_mask)
