"""What happens in a clip: sound events with their times and counts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum


class Relation(Enum):
    """How one event stands in time to another."""

    before = "before"
    after = "after"
    overlapping = "overlapping"


@dataclass(frozen=True, slots=True)
class SceneEvent:
    """One sound, from onset to offset. A count of 0 marks a sound that goes on, such as rain."""

    label: str
    onset_s: float
    offset_s: float
    count: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.onset_s < self.offset_s:
            raise ValueError(
                f"event {self.label!r} must have 0 <= onset_s < offset_s, got {self.onset_s}, {self.offset_s}"
            )
        if self.count < 0:
            raise ValueError(f"event {self.label!r} must have a count of 0 or more, got {self.count}")

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.offset_s - self.onset_s

    def relation_to(self, other: SceneEvent) -> Relation:
        """Overlapping where more than half of the shorter event coincides with the longer one."""
        shared_s = min(self.offset_s, other.offset_s) - max(self.onset_s, other.onset_s)
        if shared_s > 0.5 * min(self.duration_s, other.duration_s):
            return Relation.overlapping
        return Relation.before if self.onset_s <= other.onset_s else Relation.after


@dataclass(frozen=True, slots=True)
class Scene:
    """The events of one clip, ordered by onset."""

    events: tuple[SceneEvent, ...]

    def __post_init__(self) -> None:
        ordered = sorted(self.events, key=lambda event: (event.onset_s, event.offset_s, event.label))
        object.__setattr__(self, "events", tuple(ordered))

    @classmethod
    def from_labels(cls, labels: Iterable[str], duration_s: float = 1.0) -> Scene:
        """Scene of a recording of which only the labels are known: every sound goes on all the time."""
        return cls(tuple(SceneEvent(label, 0.0, duration_s) for label in labels))

    @property
    def labels(self) -> tuple[str, ...]:
        """Distinct labels, in order of onset."""
        return tuple(dict.fromkeys(event.label for event in self.events))

    def find(self, label: str) -> SceneEvent | None:
        """Return the first event with this label."""
        return next((event for event in self.events if event.label == label), None)

    def relation(self, first: str, second: str) -> Relation | None:
        """How the sound `first` stands to the sound `second`; None unless both are there."""
        first_event, second_event = self.find(first), self.find(second)
        if first_event is None or second_event is None:
            return None
        return first_event.relation_to(second_event)

    def to_json(self) -> str:
        """One line of JSON: a list of events."""
        return json.dumps([asdict(event) for event in self.events])

    @classmethod
    def from_json(cls, text: str) -> Scene:
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        try:
            return cls(tuple(SceneEvent(**event) for event in json.loads(text)))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"a scene must be a JSON list of events, got {text[:200]!r}") from error
