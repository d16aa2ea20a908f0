"""The bootstrap over clips: Efron (1979), Bootstrap Methods: Another Look at the Jackknife."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


def resample_clips(
    pairs: Int64[Tensor, " pair"], clip: Int64[Tensor, " all"], rng: np.random.Generator
) -> Int64[Tensor, " drawn"]:
    """Draw as many clips as these pairs have, with replacement; a clip comes with all of its pairs, each time.

    `clip` says which clip each pair is of. Clips, not pairs, are independent of each other.
    """
    clips, place = clip[pairs].unique(return_inverse=True)
    times = np.bincount(rng.integers(len(clips), size=len(clips)), minlength=len(clips))
    return pairs.repeat_interleave(torch.from_numpy(times)[place])
