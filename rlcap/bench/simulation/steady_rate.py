"""The rate of a run that trains in lumps, however its updates fall into the time measured.

What lies ready when an update ends differs by a good part of an update from one to the next, so that captions trained
on within some tens of seconds say little. What the actors made meanwhile does: it comes evenly, and a batch that is
under way counts by the share of its time. In the long run all of it is trained on, if the learner is fast enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Making:
    """A batch that was trained on, then or later, and when an actor was at it."""

    began_at_s: float
    ended_at_s: float
    num_captions: int


@dataclass(frozen=True, slots=True)
class Training:
    """What the learner did in the time measured, which begins and ends with the end of an update."""

    began_at_s: float
    ended_at_s: float
    num_captions: int
    """That were trained on."""
    waited_s: float
    """For rollouts."""

    @property
    def duration_s(self) -> float:
        """Length of the measurement."""
        return self.ended_at_s - self.began_at_s


def steady_rate(training: Training, makings: Iterable[Making]) -> float:
    """Captions a second that the actors made, but no more than the learner trains on when it need not wait.

    `makings` must hold every batch that was begun before the measurement ended and is ever trained on.
    """
    made = sum(making.num_captions * _share_within(training, making) for making in makings)
    return min(made / training.duration_s, training.num_captions / (training.duration_s - training.waited_s))


def _share_within(training: Training, making: Making) -> float:
    """How much of a batch was made in the time measured."""
    begun, ended = max(making.began_at_s, training.began_at_s), min(making.ended_at_s, training.ended_at_s)
    return max(0.0, ended - begun) / (making.ended_at_s - making.began_at_s)
