"""The actor's loop body: clips, features, a group of sampled captions each, rewards, rollouts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from actors.audio_cursor import CursorBatch
from actors.reading_ahead import ReadingAhead
from actors.sampler import sample_captions
from rlcap.captioners.captioner import Captioner, Encoding
from rlcap.captioners.packed_linears import packed_linears
from rlcap.config.captioner import SamplingConfig
from rlcap.config.precision import Precision
from rlcap.protocols import AudioSource, RewardClient
from rlcap.types import Clip, Quarantined, RewardRequest, RolloutBatch, ScoredRollouts

DTYPES = {Precision.float32: torch.float32, Precision.bfloat16: torch.bfloat16}


@dataclass(frozen=True, slots=True)
class ActorResult:
    """What one cursor batch became."""

    scored: ScoredRollouts | None
    """None where no clip of the batch could be used."""
    quarantined: tuple[Quarantined, ...]
    audio_s: float
    """Seconds of audio heard."""
    decode_wait_s: float
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
        device: torch.device | None = None,
    ) -> None:
        self._audio = ReadingAhead(source)
        self._device = device or torch.device("cpu")
        dtype = DTYPES[sampling.precision]
        self.policy = policy.eval().requires_grad_(False).to(self._device, dtype)
        if sampling.compile:
            self.policy.compile_steps()
        self._reference = reference.eval().requires_grad_(False).to(self._device, dtype)
        self._sampling = sampling
        self._samples_per_clip = samples_per_clip
        self._with_greedy = with_greedy

    def caption(
        self,
        batch: CursorBatch,
        policy_version: int,
        reward_client: RewardClient,
        upcoming: CursorBatch | None = None,
    ) -> ActorResult:
        """Sample the group of every clip at these positions that can be used, and have it scored.

        Meanwhile `upcoming` is decoded: it will probably be asked for next, and nothing is wrong if it is not.
        """
        clips, quarantined = self._audio.read(batch.positions)
        decode_wait_s = self._audio.waited_s
        if upcoming is not None:
            self._audio.begin(upcoming.positions)
        if not clips:
            return ActorResult(None, tuple(quarantined), audio_s=0.0, decode_wait_s=decode_wait_s)
        rollouts, greedy = self._write(clips, batch, policy_version)
        scored = _score(clips, rollouts, greedy, reward_client)
        audio_s = sum(len(clip.waveform) / clip.sample_rate_hz for clip in clips)
        return ActorResult(scored, tuple(quarantined), audio_s, decode_wait_s)

    @torch.inference_mode()
    def _write(
        self, clips: list[Clip], batch: CursorBatch, policy_version: int
    ) -> tuple[RolloutBatch, tuple[str, ...] | None]:
        """Return the sampled groups, and the greedy captions where they are asked for."""
        features = self.policy.features(clips)
        heard = [torch.from_numpy(array).to(self._device) for array in (features.frames, features.frame_mask)]
        encoding = self.policy.encode(*heard)
        clip_index = torch.arange(len(clips), device=self._device).repeat_interleave(self._samples_per_clip)
        sampled = sample_captions(
            self.policy,
            encoding,
            clip_index,
            temperature=self._sampling.temperature,
            max_new_tokens=self._sampling.max_new_tokens,
            generator=torch.Generator(self._device).manual_seed(batch.seed),
            top_k=self._sampling.top_k,
            top_p=self._sampling.top_p,
        )
        with packed_linears(self._reference):
            reference = self._reference.log_probs(
                self._reference.encode(*heard),
                clip_index,
                sampled.tokens,
                sampled.action_mask,
                self._sampling.temperature,
                sampled.support_sizes,
            )
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
            captions=self.policy.decode(sampled.tokens, sampled.action_mask),
            temperature=self._sampling.temperature,
            policy_version=policy_version,
            batch_index=batch.batch_index,
        )
        return rollouts, self._write_greedily(encoding, len(clips)) if self._with_greedy else None

    def _write_greedily(self, encoding: Encoding, num_clips: int) -> tuple[str, ...]:
        written = sample_captions(
            self.policy,
            encoding,
            torch.arange(num_clips, device=self._device),
            temperature=self._sampling.temperature,
            max_new_tokens=self._sampling.max_new_tokens,
            generator=None,
        )
        return self.policy.decode(written.tokens, written.action_mask)


def _score(
    clips: list[Clip], rollouts: RolloutBatch, greedy: tuple[str, ...] | None, reward_client: RewardClient
) -> ScoredRollouts:
    """Have all captions scored in one request: no swap of the reward model can come between them."""
    if greedy is None:
        request = RewardRequest(tuple(clips), rollouts.captions, rollouts.clip_index)
        return ScoredRollouts(rollouts, reward_client.score(request))
    num_rollouts = len(rollouts.captions)
    clip_index = np.concatenate([rollouts.clip_index, np.arange(len(clips))])
    rewards = reward_client.score(RewardRequest(tuple(clips), (*rollouts.captions, *greedy), clip_index))
    sampled = replace(rewards, scores=rewards.scores[:num_rollouts], failed=rewards.failed[:num_rollouts])
    return ScoredRollouts(rollouts, sampled, greedy_scores=rewards.scores[num_rollouts:])
