"""What a `ClapModel` of transformers hears of a clip: the library's own input, but always the same.

Clips up to the model's length (10 s) are heard as the library hears them. The library crops longer ones at random;
here models without fusion hear the centre, and those with fusion the shrunken whole and the middle one of the crops
that the library could draw from each third.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from transformers import ClapFeatureExtractor

from rlcap.audio.long_clips import centre, shrunk_and_thirds
from rlcap.audio.resampling import resample
from rlcap.types import Clip


@dataclass(frozen=True, slots=True)
class ClapInput:
    """One clip as the audio model takes it."""

    mels: Float[Tensor, "channel frame mel"]
    """One channel, or the four of a model with fusion."""
    is_longer: bool
    """Whether a model with fusion looks at all its channels."""
    own_share: float
    """Of the frames, how many the clip itself takes; the library fills the rest with repeats of a short one."""


def clap_input(extractor: ClapFeatureExtractor, clip: Clip, *, is_fused: bool) -> ClapInput:
    """Compute the input of one clip. One by one: the library marks one of several short clips as long at random."""
    waveform = resample(clip.waveform, clip.sample_rate_hz, extractor.sampling_rate)
    if not is_fused:
        waveform = centre(waveform, extractor.nb_max_samples)
    own_share = min(1.0, len(waveform) / extractor.nb_max_samples)
    if len(waveform) > extractor.nb_max_samples:
        mels, is_longer = _fusion_mels(extractor, waveform)
    else:
        truncation = "fusion" if is_fused else "rand_trunc"
        heard = extractor(waveform, truncation=truncation, sampling_rate=extractor.sampling_rate)
        mels, is_longer = torch.from_numpy(heard["input_features"][0]), bool(heard["is_longer"][0][0])
    return ClapInput(mels.float(), is_longer, own_share)


def _fusion_mels(
    extractor: ClapFeatureExtractor, waveform: Float32[np.ndarray, " sample"]
) -> tuple[Float[Tensor, "4 frame mel"], bool]:
    """The library's fusion input of a long clip, with the middle one of the positions that it would draw from."""
    mel = torch.from_numpy(extractor._np_extract_fbank_features(waveform, extractor.mel_filters))
    num_frames = extractor.nb_max_samples // extractor.hop_length + 1
    if len(mel) == num_frames:  # longer by less than a frame
        # Alone in its batch, such a clip is marked as long by the library.
        return mel.expand(4, -1, -1), True
    return shrunk_and_thirds(mel, num_frames), True
