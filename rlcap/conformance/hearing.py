"""Checks on `features` and `encode`: each clip is heard alone, at the captioner's own rate, whatever pads it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rlcap.audio.resampling import resample
from rlcap.conformance.findings import Finding, Gap, check, gap, gaps, judge
from rlcap.conformance.subject import Subject
from rlcap.types import Clip, PolicyFeatures

PADDING_FRAMES = (1, 37)


@check(
    "features are what encode reads",
    expected="PolicyFeatures: float32 frames [clip, frame, dim], a bool mask [clip, frame], a real frame for each clip",
    remedy="return one row of frames a clip, padded to the longest, and True in the mask where a frame is real",
)
def well_formed_features(subject: Subject) -> Finding:
    """Look at types and shapes of features and encoding."""
    frames, mask = subject.features.frames, subject.features.frame_mask
    num_clips = len(subject.clips)
    faults = {
        f"frames of type {frames.dtype}": frames.dtype != np.float32,
        f"a mask of type {mask.dtype}": mask.dtype != np.bool_,
        f"frames {frames.shape} of {num_clips} clips": frames.ndim != 3 or len(frames) != num_clips,
        f"a mask {mask.shape} of frames {frames.shape}": mask.shape != frames.shape[:2],
        "a clip without any frame": not mask.any(axis=-1).all(),
        "frames that are not finite": not np.isfinite(frames).all(),
    }
    found = [fault for fault, is_there in faults.items() if is_there]
    if found:
        return Finding(passed=False, got=", ".join(found))
    rows = len(subject.encoding.states)
    return Finding(rows == num_clips, f"frames {frames.shape}, encoded to {tuple(subject.encoding.states.shape)}")


@check(
    "features of a clip depend on that clip alone",
    expected="the same frames whether a clip comes alone or among others, to one part in ten thousand",
    remedy="in `features`, normalise by fixed numbers or by the clip itself, and let no padding reach an encoder",
)
def features_alone(subject: Subject) -> Finding:
    """Compare features of each clip alone with those among others."""
    scale = max(1.0, float(np.abs(subject.features.frames).max()))
    return judge(
        Gap(one.size / scale, one.what)
        for clip, alone in enumerate(subject.features_alone)
        for one in [gap(f"in the frames of clip {clip}", _real(alone, 0), _real(subject.features, clip))]
    )


@check(
    "features do not depend on weights that are learned",
    expected="the same frames once trainable weights have moved: actors hear a batch before they have its weights",
    remedy="leave to `encode` whatever is trained, or freeze the encoder by requires_grad_(False)",
)
def features_fixed(subject: Subject) -> Finding:
    """Compare features before and after the policy moves."""
    with subject.moved():
        moved = subject.captioner.features(subject.clips)
    return judge([gap("in the frames", torch.from_numpy(moved.frames), torch.from_numpy(subject.features.frames))])


@check(
    "clips are heard at the captioner's own sample rate",
    expected="as many frames of a clip at twice its sample rate as of the clip itself, within a tenth",
    remedy="in `features`, resample from clip.sample_rate_hz to the rate that the encoder was trained at",
)
def own_sample_rate(subject: Subject) -> Finding:
    """Count the frames of a clip at two rates."""
    clip = _longest(subject)
    faster = 2 * clip.sample_rate_hz
    again = Clip(clip.clip_id, resample(clip.waveform, clip.sample_rate_hz, faster), faster)
    counts = [int(subject.captioner.features([one]).frame_mask.sum()) for one in (clip, again)]
    got = f"{counts[0]} frames at {clip.sample_rate_hz} Hz, {counts[1]} at {faster} Hz"
    return Finding(abs(counts[1] - counts[0]) <= max(2, 0.1 * counts[0]), got)


@check(
    "captions of a clip are scored alike whatever else is in the batch",
    expected="log-probs and values of each clip's captions as in a batch of that clip alone, to 1e-4",
    remedy="in `encode` and `hidden_states`, let no clip and no caption see another one, nor the padding",
)
def batch_invariance(subject: Subject) -> Finding:
    """Encode and score each clip alone."""

    def measured() -> Iterator[Gap]:
        together = subject.score()
        for clip, features in enumerate(subject.features_alone):
            rows, captions = subject.captions.of_clip(clip)
            alone = subject.score(encoding=subject.encode(features), captions=captions)
            for name in ("log_probs", "values"):
                among: Tensor = getattr(together, name)[rows, : captions.tokens.shape[1]]
                yield gap(f"in the {name} of clip {clip}", getattr(alone, name), among)

    return judge(measured())


@check(
    "padding of the audio changes nothing",
    expected="the same log-probs and values with 1 and 37 more frames of padding, to 1e-4",
    remedy="in `encode`, mask padding before every pooling, convolution and attention, and pass it on in Encoding.mask",
)
def padding(subject: Subject) -> Finding:
    """Append frames that the mask marks as padding, unless every clip fills a window of the same length."""
    clip = _longest(subject)
    half = Clip(clip.clip_id, clip.waveform[: len(clip.waveform) // 2], clip.sample_rate_hz)
    whole_window, half_window = (subject.captioner.features([one]).frames.shape[1] for one in (clip, half))
    if whole_window == half_window:
        return Finding(passed=True, got=f"{whole_window} frames for any clip: none is ever appended")
    expected = subject.score()
    return judge(
        one
        for extra in PADDING_FRAMES
        for one in gaps(
            f"with {extra} more frames",
            subject.score(encoding=subject.encode(_padded(subject.features, extra))),
            expected,
        )
    )


HEARING = (well_formed_features, features_alone, features_fixed, own_sample_rate, batch_invariance, padding)


def _longest(subject: Subject) -> Clip:
    return max(subject.clips, key=lambda clip: len(clip.waveform) / clip.sample_rate_hz)


def _real(features: PolicyFeatures, clip: int) -> Float[Tensor, "frame dim"]:
    return torch.from_numpy(features.frames[clip][features.frame_mask[clip]])


def _padded(features: PolicyFeatures, extra: int) -> PolicyFeatures:
    return PolicyFeatures(
        np.pad(features.frames, ((0, 0), (0, extra), (0, 0))), np.pad(features.frame_mask, ((0, 0), (0, extra)))
    )
