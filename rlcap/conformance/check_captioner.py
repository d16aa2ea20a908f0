"""Every check on one captioner, for the command and for a test suite of your own."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence

from rlcap.captioners.captioner import Captioner
from rlcap.conformance.findings import Check, CheckResult, Finding
from rlcap.conformance.hearing import HEARING
from rlcap.conformance.keeping import KEEPING
from rlcap.conformance.learning import LEARNING
from rlcap.conformance.subject import Subject, critic_that_tells_states_apart, synthetic_clips
from rlcap.conformance.writing import WRITING
from rlcap.errors import RlcapError
from rlcap.types import Clip

CHECKS = (*HEARING, *WRITING, *LEARNING, *KEEPING)


class CheckBrokenError(RlcapError):
    """A captioner that raised while it was being checked."""


def check_captioner(captioner: Captioner, clips: Sequence[Clip] = ()) -> list[CheckResult]:
    """Run all checks; the captioner is left in float32 and evaluation mode, its weights as they were.

    In a test suite: `assert [result for result in check_captioner(captioner) if not result.passed] == []`.

    Args:
        captioner: of any family that is known here, on any device.
        clips: what it is to hear, best of several lengths; by default four synthetic ones, of 0.1 to 5 s.
    """
    return list(check_one_by_one(captioner, clips))


def check_one_by_one(captioner: Captioner, clips: Sequence[Clip] = ()) -> Iterator[CheckResult]:
    """Yield the result of each check as soon as it is known."""
    subject = Subject(captioner, clips or synthetic_clips())
    for one in CHECKS:
        try:
            with critic_that_tells_states_apart(captioner):
                finding = _examine(one, subject)
        except CheckBrokenError as broken:
            finding = Finding(passed=False, got=str(broken))
        yield CheckResult(one.name, finding.passed, one.expected, finding.got, "" if finding.passed else one.remedy)


def _examine(one: Check, subject: Subject) -> Finding:
    try:
        return one.examine(subject)
    except Exception as error:
        raise CheckBrokenError(f"{type(error).__name__}: {error}{_place(error, subject.captioner)}") from error


def _place(error: Exception, captioner: Captioner) -> str:
    """Say where the captioner's own code was, if it was."""
    file = getattr(sys.modules[type(captioner).__module__], "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({file}, line {lines[-1]})" if lines else ""
