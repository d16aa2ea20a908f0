"""The actor's loop body: clips, features, a group of sampled captions each, rewards, rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from actors.audio_cursor import CursorBatch
from actors.hearing_ahead import HearingAhead
from actors.sampler import SampledCaptions, sample_captions, score_as_drawn
from rlcap.captioners.captioner import Captioner, Encoding, PolicyOutput
from rlcap.captioners.packed_linears import packed_linears
from rlcap.captioners.weights import FlatWeights, load_into
from rlcap.config.captioner import SamplingConfig
from rlcap.config.precision import Precision
from rlcap.protocols import AudioSource, RewardClient
from rlcap.types import Clip, PolicyFeatures, Quarantined, RewardBatch, RewardRequest, RolloutBatch, ScoredRollouts

DTYPES = {Precision.float32: torch.float32, Precision.bfloat16: torch.bfloat16}


@dataclass(frozen=True, slots=True)
class ActorResult:
    """What one cursor batch became."""

    scored: ScoredRollouts | None
    """None where no clip of the batch could be used."""
    quarantined: tuple[Quarantined, ...]
    audio_s: float
    """Seconds of audio heard."""
    audio_wait_s: float
    """How long the audio let the captioner wait."""


class CaptionActor:
    """Turns positions of an audio source into scored rollouts; holds no state but weights.

    All randomness comes with the cursor batch, so any actor produces the same rollouts for it.
    """

    def __init__(
        self,
        source: AudioSource,
        policy: Captioner,
        reference: Captioner,
        sampling: SamplingConfig,
        samples_per_clip: int,
        *,
        with_greedy: bool = False,
        overlaps: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self._device = device or torch.device("cpu")
        dtype = DTYPES[sampling.precision.on(gpu=self._device.type == "cuda")]
        self.policy = policy.eval().requires_grad_(False).to(self._device, dtype)
        if sampling.compile:
            self.policy.compile_steps()
        self._reference = reference.eval().requires_grad_(False).to(self._device, dtype)
        self._sampling = sampling
        self._samples_per_clip = samples_per_clip
        self._with_greedy = with_greedy
        self._overlaps = overlaps
        self._audio = HearingAhead(source, self._listen, when_idle=not overlaps)
        self._weights = {name: parameter.dtype for name, parameter in self.policy.named_parameters()}
        self._dtypes = {_name(dtype) for dtype in self._weights.values()}

    def load(self, weights: FlatWeights) -> None:
        """Take over the policy's weights; rollouts tell whether they were rounded here or on their way."""
        load_into(self.policy, weights)
        sent = {place.dtype for place in weights.places if place.name in self._weights}
        self._dtypes = sent | {_name(dtype) for dtype in self._weights.values()}

    def caption(
        self,
        batch: CursorBatch,
        policy_version: int,
        reward_client: RewardClient,
        upcoming: CursorBatch | None = None,
    ) -> ActorResult:
        """Sample the group of every clip at these positions that can be used, and have it scored.

        In the background `upcoming` is heard: it will probably be asked for next, and nothing is wrong if it is not.
        Where requests follow at once it is begun with, and otherwise left for the time between two of them.
        """
        heard = self._audio.hear(batch.positions)
        if upcoming is not None and self._overlaps:
            self._audio.begin(upcoming.positions)
        scored = None
        if heard.features is not None:
            scored = self._write(heard.clips, heard.features, batch, policy_version, reward_client)
        if upcoming is not None:
            self._audio.begin(upcoming.positions)
        return ActorResult(scored, heard.quarantined, heard.audio_s, heard.waited_s)

    @torch.inference_mode()
    def _listen(self, clips: Sequence[Clip]) -> PolicyFeatures:
        return self.policy.features(clips)

    @torch.inference_mode()
    def _write(
        self,
        clips: tuple[Clip, ...],
        features: PolicyFeatures,
        batch: CursorBatch,
        policy_version: int,
        reward_client: RewardClient,
    ) -> ScoredRollouts:
        """Sample the groups; the frozen reference scores their tokens while the reward server scores the captions."""
        heard = [torch.from_numpy(array).to(self._device) for array in (features.frames, features.frame_mask)]
        encoding = self.policy.encode(*heard)
        clip_index = torch.arange(len(clips), device=self._device).repeat_interleave(self._samples_per_clip)
        sampled = self._sample(encoding, clip_index, torch.Generator(self._device).manual_seed(batch.seed))
        captions = self.policy.decode(sampled.tokens, sampled.action_mask)
        greedy = self._write_greedily(encoding, len(clips)) if self._with_greedy else ()
        rewards = reward_client.ask(_request(clips, captions, greedy, clip_index.cpu().numpy()))
        reference = self._score_by_reference(heard, clip_index, sampled)
        rollouts = RolloutBatch(
            clip_ids=tuple(clip.clip_id for clip in clips),
            features=features,
            clip_index=clip_index.cpu().numpy(),
            tokens=sampled.tokens.cpu().numpy(),
            action_mask=sampled.action_mask.cpu().numpy(),
            log_probs=sampled.log_probs.cpu().numpy(),
            ref_log_probs=reference.log_probs.cpu().numpy(),
            values=sampled.values.cpu().numpy(),
            support_sizes=None if sampled.support_sizes is None else sampled.support_sizes.cpu().numpy(),
            truncated=sampled.truncated.cpu().numpy(),
            captions=captions,
            temperature=sampled.temperature,
            policy_version=policy_version,
            batch_index=batch.batch_index,
            dtypes=tuple(sorted(self._dtypes)),
        )
        return _scored(rollouts, rewards())

    def _sample(
        self, encoding: Encoding, clip_index: Int64[Tensor, " row"], generator: torch.Generator | None
    ) -> SampledCaptions:
        settings = self._sampling
        return sample_captions(
            self.policy,
            encoding,
            clip_index,
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens,
            generator=generator,
            top_k=settings.top_k,
            top_p=settings.top_p,
        )

    def _score_by_reference(
        self, heard: Sequence[Tensor], clip_index: Int64[Tensor, " row"], sampled: SampledCaptions
    ) -> PolicyOutput:
        with packed_linears(self._reference):
            return score_as_drawn(self._reference, self._reference.encode(*heard), clip_index, sampled)

    def _write_greedily(self, encoding: Encoding, num_clips: int) -> tuple[str, ...]:
        written = self._sample(encoding, torch.arange(num_clips, device=self._device), generator=None)
        return self.policy.decode(written.tokens, written.action_mask)


def _request(
    clips: Sequence[Clip], captions: tuple[str, ...], greedy: tuple[str, ...], clip_index: Int64[np.ndarray, " row"]
) -> RewardRequest:
    """All captions in one request, greedy ones last: no swap of the reward model can come between them."""
    return RewardRequest(
        tuple(clips), (*captions, *greedy), np.concatenate([clip_index, np.arange(len(greedy), dtype=np.int64)])
    )


def _scored(rollouts: RolloutBatch, rewards: RewardBatch) -> ScoredRollouts:
    """Give the first scores to the rollouts, and those that are left to the greedy captions."""
    num_rollouts = len(rollouts.captions)
    if len(rewards.scores) == num_rollouts:
        return ScoredRollouts(rollouts, rewards)
    sampled = replace(rewards, scores=rewards.scores[:num_rollouts], failed=rewards.failed[:num_rollouts])
    return ScoredRollouts(rollouts, sampled, greedy_scores=rewards.scores[num_rollouts:])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
