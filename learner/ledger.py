"""Which rollouts the learner has used: none enters two updates."""

from __future__ import annotations

from collections.abc import Sequence

from rlcap.errors import RlcapError


class RolloutLedger:
    """The batch indices of a run that were admitted to an update."""

    def __init__(self) -> None:
        self._spent: set[int] = set()

    def __len__(self) -> int:
        """Number of batches admitted."""
        return len(self._spent)

    def admit(self, batch_indices: Sequence[int]) -> None:
        """Mark batches as used.

        Raises:
            RlcapError: If one of them was used before, or comes twice; then none is marked.
        """
        seen: set[int] = set()
        for index in batch_indices:
            if index in self._spent or index in seen:
                raise RlcapError(
                    f"rollout batch {index} came to the learner twice; each may enter one update only. "
                    "Resume from the last checkpoint, so that the cursor of the audio stream and the learner agree"
                )
            seen.add(index)
        self._spent |= seen

    def state_dict(self) -> list[int]:
        """Return the used indices in ascending order."""
        return sorted(self._spent)

    def load_state_dict(self, state: Sequence[int]) -> None:
        """Take over the used indices of a checkpoint."""
        self._spent = set(state)
