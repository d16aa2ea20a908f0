"""The reward and the actors of a run that is going on: swaps, shards and actors, on request, in a thread."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import ray

from reward_server.group import RewardServer
from reward_server.messages import ShardStatistics
from reward_server.scoring import ClapReward
from rlcap.algorithm.actor_changes import ActorCounts
from rlcap.algorithm.caption_ppo import CaptionPPO
from rlcap.algorithm.ready_batches import CollectedBatch
from rlcap.errors import RewardError, RlcapError, RunError
from rlcap.mailbox import Mailbox, Message
from rlcap.pipeline.progress import announce
from rlcap.pipeline.reward_history import RewardEntry, RewardHistory
from rlcap.protocols import AudioSource
from rlcap.run_directory import RunDirectory
from rlcap.types import Clip, RewardRequest, ScoredRollouts
from rlcap.whole_file import whole_folder

log = logging.getLogger(__name__)

POLL_S = 0.2
FETCH_TIMEOUT_S = 60.0
"""Longest wait for captions that probe a candidate."""
WATCH_EVERY_S = 2.0
"""Between two looks at the shards' load."""


class LiveReward:
    """Answers the mailbox of a run while it is entered; watches the shards, and replaces one that hangs."""

    def __init__(
        self,
        server: RewardServer,
        algorithm: CaptionPPO,
        run: RunDirectory,
        source: AudioSource,
        num_probe_clips: int,
        *,
        hear_other_clips: bool,
    ) -> None:
        self._server = server
        self._algorithm = algorithm
        self._run = run
        self._source = source
        self._num_probe_clips = num_probe_clips
        self._make_client = partial(server.client, hear_other_clips=hear_other_clips)
        first = algorithm.num_updates_done + 1
        self._history = RewardHistory(run, RewardEntry(server.version, first, run.reward.name))
        self._history.continue_after(algorithm.num_updates_done)
        self._paths = {entry.version: entry.path for entry in self._history.entries}
        self._shards: list[ShardStatistics] = []
        self._first: CollectedBatch | None = None
        self._latest: CollectedBatch | None = None
        self._mailbox = Mailbox(run.control)
        self._stopping = threading.Event()
        self._actions = ThreadPoolExecutor(max_workers=1, thread_name_prefix="live-reward")
        self._watcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="watch-shards")
        self._thread = threading.Thread(target=self._serve, name="mailbox", daemon=True)

    def __enter__(self) -> LiveReward:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._algorithm.drop_changes()
        for executor in (self._actions, self._watcher):
            executor.shutdown(cancel_futures=True)
        self._run.check_lease()  # the mailbox may be another driver's by now
        self._mailbox.close()

    def note_update(self, update: int, batch: CollectedBatch) -> dict[str, float]:
        """Note an update and a batch of it, whose captions probe the next candidate; returns metrics of the reward."""
        self._first = self._first or batch
        self._latest = batch
        metrics = {"reward/version_number": float(self._history.number_at(update))}
        metrics["reward_server/replaced"] = float(self._server.num_replaced)
        for shard in self._shards:
            metrics |= _metrics_of(shard)
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _serve(self) -> None:
        looking = self._watcher.submit(self._watch)
        while not self._stopping.wait(POLL_S):
            self._mailbox.beat()
            for message in self._mailbox.take():
                self._begin(message).add_done_callback(partial(self._answer, message))
            if looking.done():
                looking.result()
                looking = self._watcher.submit(self._watch)

    def _watch(self) -> None:
        """Look at the shards' load, which takes long where one of them hangs."""
        self._stopping.wait(WATCH_EVERY_S)
        self._shards = self._server.statistics()

    def _begin(self, message: Message) -> Future[Mapping[str, Any]]:
        """Begin what a message asks for: the training loop changes its actors, and a thread does the rest."""
        if message.action != "scale_actors":
            return self._actions.submit(self._act, message)
        answer: Future[Mapping[str, Any]] = Future()
        add, remove = (message.arguments.get(name, 0) for name in ("add", "remove"))
        if not all(isinstance(number, int) and number >= 0 for number in (add, remove)):
            answer.set_exception(RunError(f"actors are added and removed in whole numbers, got {add} and {remove}"))
            return answer
        self._algorithm.scale_actors(add=add, remove=remove).add_done_callback(partial(_pass_on, answer))
        return answer

    def _act(self, message: Message) -> Mapping[str, Any]:
        actions: dict[str, Callable[..., Mapping[str, Any]]] = {
            "swap": self._swap,
            "discard": self._discard,
            "rollback": self._rollback,
            "status": self._status,
            "add_shard": self._add_shard,
            "remove_shard": self._remove_shard,
        }
        if message.action not in actions:
            raise RewardError(f"there is no action {message.action!r}; there are {', '.join(actions)}")
        return actions[message.action](**message.arguments)

    def _answer(self, message: Message, done: Future[Mapping[str, Any]]) -> None:
        if done.cancelled():
            self._mailbox.refuse(message.name, "the run has ended")
            return
        error = done.exception()
        if error is None:
            self._mailbox.answer(message.name, done.result())
            return
        if not isinstance(error, RlcapError):
            log.error("request %s failed", message.action, exc_info=error)
        self._mailbox.refuse(message.name, str(error) or type(error).__name__)

    def _swap(self, path: str, shadow: bool) -> Mapping[str, Any]:
        candidate = ClapReward.load(Path(path))
        report = self._server.stage(candidate, self._probe_set())
        if shadow:
            self._server.shadow()
            self._algorithm.use_reward(self._make_client())
            return {**asdict(report), "shadow": True}
        kept = self._run.reward_models / candidate.version
        if not kept.exists():
            self._run.check_lease()
            with whole_folder(kept) as aside:
                candidate.save(aside)
        self._paths[candidate.version] = str(kept.relative_to(self._run.path))
        self._server.commit()
        return {**asdict(report), **self._publish()}

    def _discard(self) -> Mapping[str, Any]:
        version = self._server.staged_version
        if version is None:
            raise RewardError("there is no shadow to let go of")
        self._server.discard()
        self._algorithm.use_reward(self._make_client())
        return {"discarded": version}

    def _rollback(self) -> Mapping[str, Any]:
        self._server.rollback()
        return self._publish()

    def _publish(self) -> Mapping[str, Any]:
        """Let the live model score from the next update on of which nothing is under way."""
        version = self._server.version
        from_update = self._algorithm.use_reward(self._make_client())
        self._history.add(RewardEntry(version, from_update, self._paths[version]))
        announce(f"reward model {version} scores from update {from_update} on")
        return {"version": version, "from_update": from_update}

    def _add_shard(self, replica_of: str) -> Mapping[str, Any]:
        name = self._server.add_replica(replica_of) if replica_of else self._server.add_shard()
        self._algorithm.use_reward(self._make_client())
        return {"name": name}

    def _remove_shard(self, name: str) -> Mapping[str, Any]:
        self._server.remove_shard(name)
        self._algorithm.use_reward(self._make_client())
        return {"name": name}

    def _status(self) -> Mapping[str, Any]:
        server, shadow = self._server, self._server.shadow_report()
        return {
            "version": server.version,
            "previous_version": server.previous_version,
            "shadow": asdict(shadow) if shadow else None,
            "history": [asdict(entry) for entry in self._history.entries],
            "num_updates": self._algorithm.num_updates_done,
            "num_replaced": server.num_replaced,
            "owners": {name: [shard.name for shard in shards] for name, shards in server.roster.owners.items()},
            "shards": [asdict(shard) for shard in self._server.statistics()],
        }

    def _probe_set(self) -> RewardRequest:
        """Captions of clips of the latest update, and of the first, when the policy still said many things."""
        if self._first is None or self._latest is None:
            raise RewardError("the run has no captions yet to probe a reward model on: wait for its first update")
        batches = [self._first] if self._first is self._latest else [self._first, self._latest]
        clips: list[Clip] = []
        captions: list[str] = []
        clip_index: list[int] = []
        for batch in batches:
            heard, _ = self._source.read(batch.batch.positions)
            scored: ScoredRollouts = ray.get(batch.rollouts, timeout=FETCH_TIMEOUT_S)
            for clip in heard[: max(1, self._num_probe_clips // len(batches))]:
                rows = np.flatnonzero(scored.rollouts.clip_index == scored.rollouts.clip_ids.index(clip.clip_id))
                captions += [scored.rollouts.captions[row] for row in rows]
                clip_index += [len(clips)] * len(rows)
                clips.append(clip)
        return RewardRequest(tuple(clips), tuple(captions), np.array(clip_index, dtype=np.int64))


def _pass_on(answer: Future[Mapping[str, Any]], changed: Future[ActorCounts]) -> None:
    """Make the answer to a message of what the training loop says."""
    if changed.cancelled():
        answer.cancel()
    elif (error := changed.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(asdict(changed.result()))


def _metrics_of(shard: ShardStatistics) -> dict[str, float]:
    batches, cache, load = shard.batches, shard.cache, shard.load
    num_lookups = cache.num_hits + cache.num_misses
    prefix = f"reward_server/{shard.name}"
    return {
        f"{prefix}/queue": float(batches.queued_size),
        f"{prefix}/held_back_s": batches.held_back_s,
        f"{prefix}/batch_size": batches.total_size / batches.num_batches if batches.num_batches else math.nan,
        f"{prefix}/hit_rate": cache.num_hits / num_lookups if num_lookups else math.nan,
        f"{prefix}/latency_p50_ms": load.latency_p50_ms,
        f"{prefix}/latency_p95_ms": load.latency_p95_ms,
        f"{prefix}/latency_p99_ms": load.latency_p99_ms,
        f"{prefix}/failed": float(load.num_failed),
    }
