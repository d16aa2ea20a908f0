"""Key figures of a run, in words and numbers for a reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

_CAPTIONERS = ("baseline", "tuned", "supervised")

_WIN_RATES = (
    ("win_rate", "the baseline", "the captioner as it was before"),
    ("win_rate_where_baseline_failed", "the baseline, where it failed", "clips whose sounds the baseline got wrong"),
    ("win_rate_vs_supervised", "supervised fine-tuning", "the baseline, trained on more captions instead"),
)
_CONTROLS = {
    "text_only": ("tuning without hearing", "control: a reward model that reads the caption alone"),
    "shuffled_audio": ("tuning on the wrong audio", "control: a reward model that hears another clip"),
}
_COMPARISONS = (
    ("named_right", "Right sounds named", "share of clips of which the caption names every sound, and no other"),
    ("caption_length", "Caption length", "words"),
    ("distinct_captions", "Distinct captions", "different captions, as a share of all"),
    ("repetition", "Repetition", "share of word pairs that repeat an earlier one of the caption"),
)
MAX_NUMBER = 1e300
"""What lies beyond is no figure of a run, nor are infinities."""
_SHARES = frozenset({"named_right", "distinct_captions", "repetition"})


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often the tuned captioner is preferred over another one."""

    opponent: str
    explanation: str
    rate: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> str:
        """The 95 % interval, or nothing."""
        return "" if self.low is None or self.high is None else f"{self.low:.0%} to {self.high:.0%}"

    @property
    def conclusion(self) -> str:
        """What the interval allows to say."""
        if self.low is None or self.high is None:
            return ""
        if self.low > 0.5:
            return "tuned is preferred"
        return "tuned is worse" if self.high < 0.5 else "no clear difference"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One property of the captions of each captioner; empty where it is not known."""

    title: str
    explanation: str
    values: dict[str, str]


def win_rates(summary: Mapping[str, Any]) -> list[WinRate]:
    """Return every win rate of the tuned captioner that the summary holds, the main one first."""
    found = [_win_rate(summary, key, opponent, explanation) for key, opponent, explanation in _WIN_RATES]
    for name, control in _nested(summary.get("controls")).items():
        opponent, explanation = _CONTROLS.get(name, (name.replace("_", " "), "control"))
        found.append(_win_rate(_nested(control), "win_rate_of_tuned_against_it", opponent, explanation))
    return [rate for rate in found if rate is not None]


def comparisons(summary: Mapping[str, Any]) -> list[Comparison]:
    """Return what is known of the captions, side by side."""
    found = []
    for key, title, explanation in _COMPARISONS:
        nested = _nested(summary.get(key))
        numbers = {name: nested.get(name, summary.get(f"{key}_{name}")) for name in _CAPTIONERS}
        show = share if key in _SHARES else number
        values = {name: show(value) for name, value in numbers.items()}
        if any(values.values()):
            found.append(Comparison(title, explanation, values))
    return found


def stage_timings(summary: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Return name, duration in words, and share of the longest stage."""
    stages = {name: seconds for name, seconds in _nested(summary.get("wall_s")).items() if _is_number(seconds)}
    longest = max(stages.values(), default=0.0)
    return [(name, duration(seconds), seconds / longest if longest else 0.0) for name, seconds in stages.items()]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every figure of the summary by full key."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, prefix=f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(number(item) or str(item) for item in value)
        else:
            yield f"{prefix}{key}", number(value) or str(value)


def share(value: Any) -> str:  # noqa: ANN401
    """Write a share in percent, small ones with a decimal; nothing where there is none."""
    if not _is_number(value):
        return ""
    return f"{value:.1%}" if 0 < value < 0.0995 else f"{value:.0%}"


def percent(value: Any) -> str:  # noqa: ANN401
    """Write a share in tenths of a percent; nothing where there is none."""
    return f"{value:.1%}" if _is_number(value) else ""


def number(value: Any) -> str:  # noqa: ANN401
    """Write a number with three significant digits, whole ones in full; nothing where there is none."""
    if not _is_number(value):
        return ""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: Any) -> str:  # noqa: ANN401
    """Write seconds as a reader would say them; nothing where there are none."""
    if not _is_number(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _win_rate(figures: Mapping[str, Any], key: str, opponent: str, explanation: str) -> WinRate | None:
    rate, interval = figures.get(key), figures.get(f"{key}_ci95")
    if not _is_number(rate):
        return None
    bounds = interval if isinstance(interval, list) and all(map(_is_number, interval)) else []
    low, high = bounds if len(bounds) == 2 else (None, None)
    return WinRate(opponent, explanation, rate, low, high)


def _is_number(value: Any) -> TypeGuard[float]:  # noqa: ANN401
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -MAX_NUMBER < value < MAX_NUMBER


def _nested(value: object) -> Mapping[str, Any]:
    """Figures within the summary; none where something else stands there."""
    return value if isinstance(value, Mapping) else {}
