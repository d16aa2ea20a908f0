"""The captioner under examination, some clips, and captions of them that end early, late and not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlcap.audio.resampling import resample
from rlcap.captioners.captioner import Captioner, Encoding, PolicyOutput
from rlcap.errors import CheckpointError
from rlcap.soundscapes.stream import SoundscapeSource
from rlcap.types import Clip, PolicyFeatures

VALUE_HEAD = "value_head"
MAX_NEW_TOKENS = 12
GROUP_SIZES = (4, 1, 3, 2)
"""Captions of the first clip, of the second, and so on, in turns."""
TEXTS = (
    "a dog barks",
    "",
    "rain falls on a roof while thunder rolls in the distance and a car passes by on a wet road",
    "birds sing",
    "a siren",
    "an engine idles and then stops",
    "people talk and laugh in a room",
)


@dataclass(frozen=True, slots=True)
class GivenCaptions:
    """B captions of C clips, right-padded to the longest; the rows of a clip are adjacent."""

    clip_index: Int[Tensor, " batch"]
    tokens: Int[Tensor, "batch token"]
    action_mask: Bool[Tensor, "batch token"]

    def of_clip(self, clip: int) -> tuple[Int[Tensor, " row"], GivenCaptions]:
        """Return the rows of one clip, and these alone, trimmed to their longest."""
        rows = (self.clip_index == clip).nonzero().squeeze(-1)
        length = int(self.action_mask[rows].sum(dim=1).max())
        alone = torch.zeros_like(rows)
        return rows, GivenCaptions(alone, self.tokens[rows, :length], self.action_mask[rows, :length])


class Subject:
    """A captioner in float32 and evaluation mode, and what it makes of the clips; each is computed once."""

    def __init__(self, captioner: Captioner, clips: Sequence[Clip]) -> None:
        self.captioner = captioner.float().eval()
        self.clips = list(clips)
        self.device = next(captioner.parameters()).device

    @cached_property
    def features(self) -> PolicyFeatures:
        """Features of all clips."""
        return self.captioner.features(self.clips)

    @cached_property
    def features_alone(self) -> list[PolicyFeatures]:
        """Features of each clip alone."""
        return [self.captioner.features([clip]) for clip in self.clips]

    @cached_property
    def encoding(self) -> Encoding:
        """All clips, without gradients."""
        return self.encode(self.features)

    @cached_property
    def clip_index(self) -> Int[Tensor, " batch"]:
        """Ragged groups."""
        sizes = torch.tensor(list(islice(cycle(GROUP_SIZES), len(self.clips))), device=self.device)
        return torch.arange(len(self.clips), device=self.device).repeat_interleave(sizes)

    @cached_property
    def captions(self) -> GivenCaptions:
        """Captions that end at once, after some tokens, and not at all."""
        captioner = self.captioner
        allowed = [text for text in TEXTS if self._may_be_written(text)]
        if not allowed:
            raise CheckpointError("forbidden_tokens forbids every caption of a few English words: forbid fewer")
        tokens, mask = captioner.tokenize(list(islice(cycle(allowed), len(self.clip_index))))
        tokens, mask = tokens[:, :MAX_NEW_TOKENS].to(self.device), mask[:, :MAX_NEW_TOKENS].to(self.device)
        lengths = mask.sum(dim=1)
        lengths[::3] = (lengths[::3] - 1).clamp(min=1)  # every third caption goes without its end
        longest = int(lengths.max())
        mask = torch.arange(longest, device=self.device) < lengths[:, None]
        known = torch.where(mask, tokens[:, :longest], captioner.pad_token_id)
        return GivenCaptions(self.clip_index, known, mask)

    @torch.no_grad()
    def encode(self, features: PolicyFeatures, captioner: Captioner | None = None) -> Encoding:
        """Encode features, by default with the captioner itself."""
        return hear(captioner or self.captioner, features, self.device)

    @torch.no_grad()
    def score(
        self,
        *,
        captioner: Captioner | None = None,
        encoding: Encoding | None = None,
        captions: GivenCaptions | None = None,
        temperature: float = 1.0,
    ) -> PolicyOutput:
        """Score captions; what is not given is the subject's own."""
        return score(captioner or self.captioner, encoding or self.encoding, captions or self.captions, temperature)

    @contextmanager
    def moved(self) -> Iterator[None]:
        """Move every trainable weight, as training would, and bring all back to the bit."""
        trainable = [parameter for parameter in self.captioner.parameters() if parameter.requires_grad]
        before = [parameter.detach().clone() for parameter in trainable]
        generator = torch.Generator().manual_seed(0)
        try:
            with torch.no_grad():
                for parameter in trainable:
                    noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                    parameter.add_(noise * (0.01 + 0.1 * parameter.abs().mean()))
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(trainable, before, strict=True):
                    parameter.copy_(value)

    def _may_be_written(self, text: str) -> bool:
        captioner = self.captioner
        tokens = captioner.tokenize([text])[0][0].tolist()
        return tokens[0] not in captioner.forbidden_first_tokens and not {*tokens} & {*captioner.forbidden_tokens}


@contextmanager
def critic_that_tells_states_apart(captioner: Captioner) -> Iterator[None]:
    """Draw weights for what starts at zero in the critic: equal values of all states would hide any fault of theirs."""
    generator = torch.Generator().manual_seed(0)
    named = captioner.named_parameters()
    zeros = [one for name, one in named if VALUE_HEAD in name.split(".") and not one.any()]
    try:
        with torch.no_grad():
            for parameter in zeros:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
        yield
    finally:
        with torch.no_grad():
            for parameter in zeros:
                parameter.zero_()


def hear(captioner: Captioner, features: PolicyFeatures, device: torch.device) -> Encoding:
    """Encode features as actors and learner do."""
    frames, mask = torch.from_numpy(features.frames).to(device), torch.from_numpy(features.frame_mask).to(device)
    return captioner.encode(frames, mask)


def score(captioner: Captioner, encoding: Encoding, captions: GivenCaptions, temperature: float = 1.0) -> PolicyOutput:
    """Teacher-force captions."""
    return captioner.log_probs(encoding, captions.clip_index, captions.tokens, captions.action_mask, temperature)


def synthetic_clips() -> list[Clip]:
    """Make four clips of 0.1 to 5 s, the shortest that a run takes among them, one at 44.1 kHz."""
    clips, _ = SoundscapeSource(seed=0).read(range(4))
    cut = [
        Clip(clip.clip_id, clip.waveform[: round(duration_s * clip.sample_rate_hz)], clip.sample_rate_hz)
        for clip, duration_s in zip(clips, (2.0, 0.1, 5.0, 1.0), strict=True)
    ]
    last = cut[-1]
    return [*cut[:-1], Clip(last.clip_id, resample(last.waveform, last.sample_rate_hz, 44_100), 44_100)]
