"""What the driver does with a group of learners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import ray
from ray.rllib.core.learner.learner_group import LearnerGroup

from learner import saved_state
from learner.ppo_learner import CaptionPPOLearner, LearnerResult
from rlcap.errors import ActorLostError, RlcapError

Answer = TypeVar("Answer")


DEFAULT_TIMEOUT_S = 1800.0
"""Longest wait for learners in processes of their own."""


def update_learners(
    group: LearnerGroup, rollout_refs: Sequence[ray.ObjectRef], timeout_s: float = DEFAULT_TIMEOUT_S
) -> LearnerResult:
    """Train on rollouts by reference and wait; the driver never holds their data, and every learner is sent all.

    Where rollouts are lost, nothing is trained, and the result says which.

    Raises:
        RlcapError: What a learner raised. The group may be out of step: shut it down, build another, load a checkpoint.
        ActorLostError: If a learner died, now or before.
    """
    refs = list(rollout_refs)
    return _on_each(group, lambda learner: learner.update(batch_refs=refs), timeout_s)[0]


def hold_learners(group: LearnerGroup) -> saved_state.HeldState:
    """Copy the learners' state as it is now, for `saved_state.write`.

    Raises:
        ActorLostError: If a learner is lost.
    """
    held = _on_each(group, lambda learner: learner.hold_update())[0]
    assert held is not None, "answers come in learner order"
    return held


def load_learners(group: LearnerGroup, directory: Path) -> LearnerResult:
    """Take every learner back to a checkpoint that this process sees; the result holds the weights, and no metrics.

    Raises:
        ActorLostError: If a learner is lost.
        CheckpointError: If the checkpoint is missing, damaged, or of another captioner.
    """
    path, content = str(directory / saved_state.STATE_FILE), saved_state.read(directory)
    if not len(group):  # the learner is here
        return _on_each(group, lambda learner: learner.load_update(content, path))[0]
    sent = ray.put(content)
    return _on_each(group, lambda learner: learner.load_update(ray.get(sent), path))[0]


def learner_weights(group: LearnerGroup) -> LearnerResult:
    """Return the current weights, to be published before the first update, and no metrics.

    Raises:
        ActorLostError: If a learner is lost.
    """
    return _on_each(group, lambda learner: learner.current())[0]


def _on_each(
    group: LearnerGroup, call: Callable[[CaptionPPOLearner], Answer], timeout_s: float = DEFAULT_TIMEOUT_S
) -> list[Answer]:
    """Call a function on every learner and return all answers; raise the error that explains the others."""
    results = group.foreach_learner(call, timeout_seconds=timeout_s)
    answers = [result.get() for result in results]
    # RLlib leaves learners out without a word that are lost, or silent for too long.
    if len(answers) != max(1, len(group)):
        silent = set(range(len(group))) - {result.actor_id for result in results.result_or_errors}
        who = ", ".join(f"learner {number}" for number in sorted(silent))
        raise _lost(group, len(answers), f" ({who} gave no answer within {timeout_s:.0f} s, or was lost before)")
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    for error in errors:
        if isinstance(error, ray.exceptions.RayActorError):
            raise _lost(group, len(answers) - len(errors)) from error
    if errors:
        # Learners that only noticed the failure of another say so by an ActorLostError.
        raise _cause(min(errors, key=lambda error: isinstance(error, ActorLostError)))
    return answers


def _cause(error: Exception) -> Exception:
    """Return what a learner raised, without the traceback that Ray puts into its message."""
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, RlcapError):
        return error.cause
    return error


def _lost(group: LearnerGroup, num_answers: int, who: str = "") -> ActorLostError:
    return ActorLostError(
        f"{num_answers} of {max(1, len(group))} learners answered{who}: shut the learner group down, build "
        "another, and load the last checkpoint"
    )
