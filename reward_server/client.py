"""What an actor holds of the reward server: routes clips to shards and puts their answers together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ray
from jaxtyping import Int64

from reward_server.controls import hear_other_clips
from reward_server.routing import owner
from reward_server.shard_actor import LiveModel, ShardAnswer, ShardHandle, ShardRequest
from rlcap.types import RewardBatch, RewardRequest


@dataclass(frozen=True, slots=True)
class _Part:
    """What one shard is asked."""

    shard: ShardHandle
    rows: Int64[np.ndarray, " part"]
    """Places of its captions in the whole request."""
    request: ShardRequest


class ShardedRewardClient:
    """A `RewardClient` over shards; travels to other processes.

    A score that a shard could not give in time is marked as failed, with a sentence that names the shard. All scores
    of a request are by one version: a shard that answered by an older one is asked again. With `hears_other_clips`
    every caption is scored against another clip of its request, as a control.
    """

    def __init__(
        self, shards: Sequence[ShardHandle], live: LiveModel, timeout_s: float, *, hears_other_clips: bool = False
    ) -> None:
        self._shards = {shard.name: shard for shard in shards}
        self._live = live
        self._timeout_s = timeout_s
        self._hears_other_clips = hears_other_clips

    def score(self, request: RewardRequest) -> RewardBatch:
        """Score every caption; failures are marked, never invented.

        Raises ValueError where `clip_index` does not fit the clips and captions.
        """
        _check(request)
        if self._hears_other_clips:
            if len(request.clips) < 2:
                return self._merge(request, [], ["a single clip cannot be exchanged with another one"])
            request = hear_other_clips(request)
        deadline = time.monotonic() + self._timeout_s
        outstanding = self._parts(request)
        answered: list[tuple[_Part, ShardAnswer]] = []
        reasons: list[str] = []
        while outstanding:
            answers, faults = _ask(outstanding, self._live, deadline, self._timeout_s)
            reasons += faults
            answered += answers
            self._live = max((answer.live for _, answer in answered), key=_generation, default=self._live)
            outstanding = [part for part, answer in answered if answer.live.generation < self._live.generation]
            answered = [one for one in answered if one[1].live.generation == self._live.generation]
        return self._merge(request, answered, reasons)

    def _parts(self, request: RewardRequest) -> list[_Part]:
        """Split a request by the owners of its clips; the audio goes to the object store, one object a shard."""
        names = list(self._shards)
        owners = np.array([names.index(owner(clip.clip_id, names)) for clip in request.clips], dtype=np.int64)
        parts = []
        for number, name in enumerate(names):
            rows = np.flatnonzero(owners[request.clip_index] == number) if len(owners) else np.zeros(0, np.int64)
            if not len(rows):
                continue
            numbers, clip_index = np.unique(request.clip_index[rows], return_inverse=True)
            clips = tuple(request.clips[clip] for clip in numbers)
            shard_request = ShardRequest(
                self._live,
                tuple(clip.clip_id for clip in clips),
                ray.put(clips),
                tuple(request.captions[row] for row in rows),
                clip_index,
            )
            parts.append(_Part(self._shards[name], rows, shard_request))
        return parts

    def _merge(
        self, request: RewardRequest, answered: Sequence[tuple[_Part, ShardAnswer]], reasons: Sequence[str]
    ) -> RewardBatch:
        scores = np.full(len(request.captions), np.nan, dtype=np.float32)
        all_reasons = list(reasons)
        for part, answer in answered:
            scores[part.rows] = answer.scores.scores
            all_reasons += answer.scores.failure_reasons
        version = self._live.version + ("-hears-other-clips" if self._hears_other_clips else "")
        return RewardBatch(scores, np.isnan(scores), tuple(dict.fromkeys(all_reasons)), version)


def _ask(
    parts: Sequence[_Part], live: LiveModel, deadline: float, timeout_s: float
) -> tuple[list[tuple[_Part, ShardAnswer]], list[str]]:
    """Ask all shards at once; return the answers, and a sentence for each shard that gave none."""
    pending = [(part, part.shard.score(_by(part.request, live))) for part in parts]
    answers: list[tuple[_Part, ShardAnswer]] = []
    faults: list[str] = []
    for part, reference in pending:
        try:
            answers.append((part, ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(reference)
            faults.append(f"{part.shard.name} did not answer within {timeout_s:g} s")
        except ray.exceptions.RayError as error:
            faults.append(f"{part.shard.name} failed: {str(error).strip().splitlines()[-1]}")
    return answers, faults


def _by(request: ShardRequest, live: LiveModel) -> ShardRequest:
    return ShardRequest(live, request.clip_ids, request.clips, request.captions, request.clip_index)


def _generation(live: LiveModel) -> int:
    return live.generation


def _check(request: RewardRequest) -> None:
    index = request.clip_index
    if len(index) != len(request.captions):
        raise ValueError(f"clip_index must have one entry a caption: got {len(index)} for {len(request.captions)}")
    if len(index) and not (index.min() >= 0 and index.max() < len(request.clips)):
        raise ValueError(
            f"clip_index must lie in [0, {len(request.clips)}), the number of clips; got {index.min()} to {index.max()}"
        )
