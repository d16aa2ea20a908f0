"""Training that diverges ends at once, whatever is trained: a loss that is NaN leaves no weight that is not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from rlcap.errors import DivergedError
from rlcap.finite_weights import not_finite, some_of


class DivergenceWatch:
    """Looks at the loss and the gradient of every step of one stage, and at the weights that the last one leaves."""

    def __init__(self, stage: str, remedy: str) -> None:
        """Begin to count steps.

        Args:
            stage: what is trained, as a message begins with it.
            remedy: what to change, as a message ends with it; see `lower`.
        """
        self._stage = stage
        self._remedy = remedy
        self._num_steps = 0
        self._pending: tuple[int, Float[Tensor, " 2"]] | None = None

    def note_step(self, epoch: int, loss: Float[Tensor, ""], grad_norm: Float[Tensor, ""]) -> None:
        """Note a step, counting epochs from 0, and look at the one before: a GPU has computed that one by now.

        Raises:
            DivergedError: If loss or gradient norm is not finite.
        """
        self._look()
        self._num_steps += 1
        self._pending = epoch, torch.stack([loss.detach(), grad_norm.detach()])

    def check_inputs(self, what: str, numbers: Tensor) -> None:
        """Look at what is read before the first step.

        Raises:
            DivergedError: If it is not finite.
        """
        if not bool(numbers.isfinite().all()):
            raise DivergedError(f"{self._stage} cannot begin: the {what} that it reads are not finite")

    def check_validation(self, epoch: int, loss: float) -> None:
        """Look at a loss that nothing is trained by.

        Raises:
            DivergedError: If it is not finite.
        """
        if not math.isfinite(loss):
            raise DivergedError(
                f"{self._stage} diverged in epoch {epoch + 1}: the validation loss is {loss:g}; {self._remedy}"
            )

    def finish(self, weights: Mapping[str, Tensor]) -> None:
        """Look at the last step, and at the weights that it left.

        Raises:
            DivergedError: If they are not finite; names them.
        """
        self._look()
        if names := not_finite(weights):
            raise DivergedError(
                f"{self._stage} diverged: its last step (number {self._num_steps}) left weights that are not finite, "
                f"in {some_of(names)}; {self._remedy}"
            )

    def _look(self) -> None:
        if self._pending is None:
            return
        epoch, numbers = self._pending
        self._pending = None
        loss, grad_norm = numbers.tolist()
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        found = f"the loss is {loss:.4g} and the norm of its gradient {grad_norm:.4g}"
        if self._num_steps == 1:
            raise DivergedError(
                f"{self._stage} cannot begin: {found} before any weight has changed: the weights or features that "
                "it begins with are not finite, or too large for their precision"
            )
        raise DivergedError(
            f"{self._stage} diverged in epoch {epoch + 1} (step {self._num_steps}): {found}; {self._remedy}"
        )


def lower(rates: Mapping[str, float]) -> str:
    """Name learning rates by their settings, to be lowered."""
    named = " or ".join(f"{setting} (now {rate:g})" for setting, rate in rates.items())
    first, rate = next(iter(rates.items()))
    return f"lower {named}, for example {first}={rate / 10:g}"
