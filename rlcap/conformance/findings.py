"""What a check is, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlcap.captioners.captioner import PolicyOutput
from rlcap.conformance.subject import Subject

TOLERANCE = 1e-4
"""How far log-probs and values may lie apart that ought to be the same, in float32."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check met."""

    passed: bool
    got: str


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a captioner must hold to."""

    name: str
    expected: str
    remedy: str
    """What to do where it does not."""
    examine: Callable[[Subject], Finding]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check, and how it came out."""

    name: str
    passed: bool
    expected: str
    got: str
    remedy: str
    """Empty where it passed."""


def check(name: str, *, expected: str, remedy: str) -> Callable[[Callable[[Subject], Finding]], Check]:
    """Make a check of the function below."""
    return lambda examine: Check(name, expected, remedy, examine)


@dataclass(frozen=True, slots=True)
class Gap:
    """How far two tensors lie apart that ought to be the same."""

    size: float
    what: str


def gap(what: str, found: Tensor, expected: Tensor) -> Gap:
    """Measure the largest difference; infinite where one is not a number, or where shapes differ."""
    if found.shape != expected.shape:
        return Gap(torch.inf, f"{what} of shape {list(found.shape)} instead of {list(expected.shape)}")
    if not found.numel():
        return Gap(0.0, what)
    difference = (found.detach().double() - expected.detach().double()).abs()
    return Gap(float(difference.nan_to_num(torch.inf).max()), what)


def gaps(where: str, found: PolicyOutput, expected: PolicyOutput) -> tuple[Gap, Gap]:
    """Compare log-probs and values of the same captions."""
    return (
        gap(f"in the log-probs {where}", found.log_probs, expected.log_probs),
        gap(f"in the values {where}", found.values, expected.values),
    )


def judge(measured: Iterable[Gap], tolerance: float = TOLERANCE) -> Finding:
    """Find the largest gap, and whether it may be."""
    worst = max(measured, key=lambda one: one.size)
    return Finding(worst.size <= tolerance, f"largest difference {worst.size:.1e}, {worst.what}")
