"""The weight of the KL penalty: fixed, or steered towards a KL that the user wants."""

from __future__ import annotations

from rlcap.config.algorithm import PPOConfig

MAX_ERROR = 0.2
"""Larger relative errors count as this one."""


class KLCoefficient:
    """Grows while the KL to the reference is above `kl_target`, and shrinks while it is below.

    Source: Ziegler et al. (2019), section 2.2; their gain is here the share of `kl_horizon` that an update takes up.
    """

    def __init__(self, config: PPOConfig) -> None:
        self._target = config.kl_target
        self._horizon = config.kl_horizon
        self.value = config.kl_coef

    def observe(self, kl: float, num_rollouts: int) -> None:
        """Adjust the weight to the KL, in nats a caption, of an update's rollouts; a fixed one stays as it is."""
        if not self._target or not num_rollouts:
            return
        error = min(max(kl / self._target - 1, -MAX_ERROR), MAX_ERROR)
        # More rollouts than the horizon count as one horizon: the weight must stay positive.
        self.value *= 1 + error * min(1.0, num_rollouts / self._horizon)

    def state_dict(self) -> float | None:
        """Return the weight where it is steered; a fixed one belongs to the settings."""
        return self.value if self._target else None

    def load_state_dict(self, state: float | None) -> None:
        """Go on with the weight of a checkpoint, if both runs steer it."""
        if self._target and state is not None:
            self.value = state
