"""Checkpoints while the run goes on: held in memory between two updates, written in a thread.

A checkpoint that cannot be written costs nothing but itself: the run warns, counts it, and trains on with the earlier
ones in place, since a full disk may have room again by the next one. Only the last one must succeed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rlcap.checkpoint import SCORE, prune, set_aside, write_checkpoint
from rlcap.checkpoint_mirror import CheckpointMirror
from rlcap.config.training import TrainingConfig
from rlcap.errors import CheckpointError
from rlcap.run_directory import RunDirectory

log = logging.getLogger(__name__)

Snapshot = Callable[[], Callable[[Path], None]]
"""Holds a run in memory, and returns what writes that into a folder."""


class Checkpointer:
    """Writes the checkpoints of one run, one at a time."""

    def __init__(
        self, run: RunDirectory, training: TrainingConfig, mirror: CheckpointMirror | None, newest: int
    ) -> None:
        self._run = run
        self._root = run.checkpoints
        self._training = training
        self._mirror = mirror
        self._newest = newest
        """The update of the newest checkpoint that is whole."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[float] | None = None
        self._num_failed = 0
        self._stall_s = 0.0
        self._write_s = 0.0
        self._values: list[float] = []

    @property
    def newest(self) -> int:
        """The update of the newest checkpoint that is whole; 0 where there is none."""
        return self._newest

    def note(self, metrics: Mapping[str, float]) -> None:
        """Remember how good the policy of an update is."""
        if not self._training.keep_best:
            return
        name = self._training.best_metric
        value = metrics.get(name.removeprefix("-"))
        if value is not None:
            self._values.append(-value if name.startswith("-") else value)

    def begin(self, update: int, snapshot: Snapshot) -> CheckpointError | None:
        """Hold the run and go on writing it behind its back; waits for the checkpoint before, if that takes so long.

        Returns what went wrong, here or with the checkpoint before; it has been told.
        """
        started = time.monotonic()
        failure = self.settle()
        if update > self._newest:
            try:
                write = snapshot()
            except CheckpointError as error:
                failure = self._failed(error)
            else:
                self._writing = self._thread.submit(self._write, update, write, self._take_score(update))
        self._stall_s += time.monotonic() - started
        return failure

    def settle(self) -> CheckpointError | None:
        """Wait until nothing is being written; return what went wrong with it, which has been told."""
        writing, self._writing = self._writing, None
        try:
            self._write_s += writing.result() if writing is not None else 0.0
        except CheckpointError as failure:
            return self._failed(failure)
        return None

    def finish(self, update: int, snapshot: Snapshot) -> None:
        """Write the last checkpoint of a run, and wait for it.

        Raises:
            CheckpointError: it could not be written here; that it could not be copied elsewhere is told.
        """
        failure = self.begin(update, snapshot)
        failure = self.settle() or failure
        if update > self._newest:
            raise CheckpointError(
                f"the last checkpoint could not be written, and what was learnt since update {self._newest} is lost: "
                f"{failure}; make room, then go on with `rlcap train resume=true run_dir={self._root.parent}`"
            ) from failure

    def metrics(self) -> dict[str, float]:
        """Return what checkpoints have cost since the last call, and how many could not be written so far."""
        if self._writing is not None and self._writing.done():
            self.settle()
        metrics = {
            "checkpoint/failed": float(self._num_failed),
            "time/checkpoint_stall_s": self._stall_s,
            "time/checkpoint_write_s": self._write_s,
        }
        self._stall_s = self._write_s = 0.0
        return metrics

    def set_aside(self, from_update: int) -> list[Path]:
        """Keep any run from going on with checkpoints of this update and later ones; return where they are now.

        Raises:
            CheckpointError: the copies elsewhere cannot be reached.
        """
        self.settle()
        self._run.check_lease()
        rejected = set_aside(self._root, from_update)
        if self._mirror is not None:
            self._mirror.set_aside(from_update)
        return rejected

    def close(self) -> None:
        """End the thread, once it has written what it was given."""
        self.settle()
        self._thread.shutdown()

    def _take_score(self, update: int) -> float | None:
        """Return how good the policy was since the checkpoint before, and forget it."""
        if not self._training.keep_best:
            return None
        values, self._values = self._values, []
        if values:
            return sum(values) / len(values)
        metric = self._training.best_metric
        log.warning("training.best_metric=%s is no metric of this run: update %d is none of its best", metric, update)
        return None

    def _write(self, update: int, write: Callable[[Path], None], score: float | None) -> float:
        """Write, copy and prune; returns the seconds that it took."""
        started = time.monotonic()
        self._run.check_lease()

        def write_all(folder: Path) -> None:
            write(folder)
            if score is not None:
                (folder / SCORE).write_text(json.dumps(score), encoding="utf-8")
            self._run.check_lease()  # writing may have taken long

        checkpoint = write_checkpoint(self._root, update, write_all)
        self._newest = update
        if self._mirror is None:
            prune(self._root, self._training.keep_last, self._training.keep_best)
        else:
            prune(self._root, keep_last=1)
            self._mirror.upload(checkpoint)
            self._mirror.prune(self._training.keep_last, self._training.keep_best)
        return time.monotonic() - started

    def _failed(self, failure: CheckpointError) -> CheckpointError:
        self._num_failed += 1
        log.warning("%s; the run trains on, and earlier checkpoints are as they were", failure)
        return failure
