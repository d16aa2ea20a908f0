"""What an actor holds of the reward server: routes clips to shards and puts their answers together."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import ray
from jaxtyping import Int64

from reward_server.controls import hear_other_clips
from reward_server.messages import ServedModel, ShardRequest, ShardScores, Supplies
from reward_server.roster import Roster
from reward_server.shard_handle import ShardHandle
from rlcap.protocols import RewardClient
from rlcap.types import Clip, RewardBatch, RewardRequest

PAUSE_S = 0.25
"""Before asking again where every shard has failed: Ray takes seconds to start one anew."""
AWAY_S = 3.0
"""For so long a shard that has failed is not asked where there are others: to learn that it is away takes a second."""

MAX_REMEMBERED = 100_000
"""Clips that a client knows its shards to have heard; then it begins anew."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client waits, in seconds."""

    request_s: float
    """For all scores of a request; what is missing then is marked as failed."""
    shard_s: float
    """For one shard, before others are asked."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What one shard is asked."""

    shard: ShardHandle
    rows: Int64[np.ndarray, " part"]
    """Places of its captions in the whole request."""
    clips: tuple[Clip, ...]
    captions: tuple[str, ...]
    clip_index: Int64[np.ndarray, " part"]


_Sent = tuple[_Part, "ray.ObjectRef[ShardScores | None]"]


class ShardedRewardClient(RewardClient):
    """A `RewardClient` over shards; travels to other processes.

    All scores are by one model. Audio goes through the object store, and only where a shard has not heard it from here
    before, or says that it lacks it. What a shard does not answer, because it was lost or hangs, is asked of the shards
    that own those clips without it; a score that cannot be had in time is marked as failed, with a sentence that names
    the shard. With `hears_other_clips` every caption is scored against another clip of its request, as a control.
    """

    def __init__(
        self,
        roster: Roster,
        model: ServedModel,
        patience: Patience,
        *,
        shadow: ServedModel | None = None,
        hears_other_clips: bool = False,
    ) -> None:
        self._roster = roster
        self._model = model
        self._patience = patience
        self._shadow = shadow
        self._hears_other_clips = hears_other_clips
        self._away_until: dict[str, float] = {}
        self._heard: set[tuple[str, str]] = set()  # shard and clip

    def score(self, request: RewardRequest) -> RewardBatch:
        """Score every caption; failures are marked, never invented.

        Raises ValueError where `clip_index` does not fit the clips and captions.
        """
        return self.ask(request)()

    def ask(self, request: RewardRequest) -> Callable[[], RewardBatch]:
        """Send a request to its shards, and return what waits for all scores, for so long as `Patience` says.

        Raises ValueError where `clip_index` does not fit the clips and captions.
        """
        _check(request)
        if self._hears_other_clips and len(request.clips) < 2:
            failed = self._batch(_Answer(request), ["a single clip cannot be exchanged with another one"])
            return lambda: failed
        if self._hears_other_clips:
            request = hear_other_clips(request)
        sent = self._send(self._parts(request, np.arange(len(request.captions)), self._away()))
        return partial(self._wait, request, sent)

    def _wait(self, request: RewardRequest, sent: Sequence[_Sent]) -> RewardBatch:
        answer, deadline = _Answer(request), time.monotonic() + self._patience.request_s
        while True:
            lost = self._take(sent, answer, deadline)
            if not lost or time.monotonic() >= deadline:
                return self._batch(answer, [reason for _, reason in lost])
            self._away_until |= {part.shard.name: time.monotonic() + AWAY_S for part, _ in lost}
            missing = np.sort(np.concatenate([part.rows for part, _ in lost]))
            sent = self._send(self._parts(request, missing, self._away()))

    def _away(self) -> set[str]:
        """Shards that are not worth asking now; none where that would be all."""
        now = time.monotonic()
        away = {name for name, until in self._away_until.items() if until > now}
        if any(shard.name not in away for shard in self._roster.shards):
            return away
        time.sleep(PAUSE_S)
        return set()

    def _parts(self, request: RewardRequest, rows: Int64[np.ndarray, " row"], silent: Collection[str]) -> list[_Part]:
        """Split rows by the owners of their clips."""
        shards = self._roster.shards
        number_of = {shard.name: number for number, shard in enumerate(shards)}
        asked = [self._roster.answering(clip.clip_id, without=silent) for clip in request.clips]
        owners = np.array([number_of[shard.name] for shard in asked if shard is not None], dtype=np.int64)
        owner_of_row = owners[request.clip_index[rows]]
        parts = []
        for number in np.unique(owner_of_row).tolist():
            mine = rows[owner_of_row == number]
            numbers, clip_index = np.unique(request.clip_index[mine], return_inverse=True)
            clips = tuple(request.clips[clip] for clip in numbers)
            captions = tuple(request.captions[row] for row in mine)
            parts.append(_Part(shards[number], mine, clips, captions, clip_index))
        return parts

    def _send(self, parts: Sequence[_Part]) -> list[_Sent]:
        return [(part, part.shard.score(self._request(part))) for part in parts]

    def _take(self, sent: Sequence[_Sent], answer: _Answer, deadline: float) -> list[tuple[_Part, str]]:
        """Take the shards' answers; return the parts that got none, and why."""
        shard_deadline = min(deadline, time.monotonic() + self._patience.shard_s)
        lost: list[tuple[_Part, str]] = []
        lacking: list[_Part] = []
        for part, reference in sent:
            heard = {(part.shard.name, clip.clip_id) for clip in part.clips}
            try:
                scores = ray.get(reference, timeout=max(0.0, shard_deadline - time.monotonic()))
            except ray.exceptions.GetTimeoutError:
                ray.cancel(reference)
                lost.append((part, f"{part.shard.name} did not answer in time"))
            except ray.exceptions.RayError as error:
                lost.append((part, f"{part.shard.name} failed: {str(error).strip().splitlines()[-1]}"))
            else:
                if scores is None:
                    self._heard -= heard
                    lacking.append(part)
                else:
                    self._remember(heard)
                    answer.take(part, scores)
        return lost + self._take(self._send(lacking), answer, deadline) if lacking else lost

    def _request(self, part: _Part) -> ShardRequest:
        """A request, with model and audio where the shard has not heard all of its clips from here before."""
        knows_all = all((part.shard.name, clip.clip_id) in self._heard for clip in part.clips)
        return ShardRequest(
            self._model.version,
            tuple(clip.clip_id for clip in part.clips),
            part.captions,
            part.clip_index,
            None if knows_all else Supplies(self._model, ray.put(part.clips)),
            self._shadow,
        )

    def _remember(self, heard: set[tuple[str, str]]) -> None:
        if len(self._heard) > MAX_REMEMBERED:
            self._heard.clear()
        self._heard |= heard

    def _batch(self, answer: _Answer, reasons: Sequence[str]) -> RewardBatch:
        version = self._model.version + ("-hears-other-clips" if self._hears_other_clips else "")
        return RewardBatch(
            answer.scores, np.isnan(answer.scores), tuple(dict.fromkeys([*answer.reasons, *reasons])), version
        )


class _Answer:
    """The scores of a request as they come in."""

    def __init__(self, request: RewardRequest) -> None:
        self.scores = np.full(len(request.captions), np.nan, dtype=np.float32)
        self.reasons: list[str] = []

    def take(self, part: _Part, found: ShardScores) -> None:
        self.scores[part.rows] = found.scores
        self.reasons += found.failure_reasons


def _check(request: RewardRequest) -> None:
    index = request.clip_index
    if len(index) != len(request.captions):
        raise ValueError(f"clip_index must have one entry a caption: got {len(index)} for {len(request.captions)}")
    if len(index) and not (index.min() >= 0 and index.max() < len(request.clips)):
        raise ValueError(
            f"clip_index must lie in [0, {len(request.clips)}), the number of clips; got {index.min()} to {index.max()}"
        )
